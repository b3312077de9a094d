# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The Gamma family: precisions, and the rates of counts and of waiting times."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
import numpy as np

from numpyro_svae.families.log_gammas import log_gammas
from numpyro_svae.families.matrices import step_to_zero
from numpyro_svae.families.natural import NaturalParameters

__all__ = ["GammaNatural"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GammaNatural(NaturalParameters):
    """Natural parameters of a Gamma; its statistics are ``(log rate, -rate)``.

    A count y adds ``(y, 1)``, a waiting time y adds ``(1, y)``, a Gaussian residual r
    of which it is the precision ``(1/2, r^2/2)``.

    :param concentration: a, of shape ``(...)``.
    :param rate: b, of shape ``(...)``.
    """

    concentration: Array
    rate: Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jnp.shape(self.concentration)

    @property
    def log_bounds(self) -> tuple[Array, Array]:
        """The least and the largest logarithm of the value."""
        dtype = jnp.result_type(self.concentration)
        return jnp.asarray(-inf, dtype), jnp.asarray(inf, dtype)

    def log_normalizer(self) -> Array:
        return gammaln(self.concentration) - self.concentration * jnp.log(self.rate)

    def expected_statistics(self) -> GammaNatural:
        log_mean = digamma(self.concentration) - jnp.log(self.rate)
        return GammaNatural(log_mean, -self.concentration / self.rate)

    def moments(self) -> GammaNatural:
        """The expected statistics."""
        return self.expected_statistics()

    def pull_back(self, cotangent: GammaNatural, moments: GammaNatural) -> GammaNatural:
        return cotangent

    def kl(self, other: GammaNatural) -> Array:
        more, ratio = self.concentration - other.concentration, other.rate / self.rate
        own, theirs = log_gammas(self.concentration, other.concentration)
        shapes = more * digamma(self.concentration) + theirs - own
        return (
            shapes
            - other.concentration * jnp.log(ratio)
            + self.concentration * (ratio - 1.0)
        )

    def largest_step(self, direction: GammaNatural, enough: float = inf) -> Array:
        return jnp.minimum(
            step_to_zero(self.concentration, direction.concentration),
            step_to_zero(self.rate, direction.rate),
        )

    def has_density(self) -> Array:
        return (self.concentration > 0) & (self.rate > 0)

    def in_domain(self) -> bool:
        both = np.stack(np.broadcast_arrays(self.concentration, self.rate))
        return bool(np.all(np.isfinite(both) & (both > 0)))
