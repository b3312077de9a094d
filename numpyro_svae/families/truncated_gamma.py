# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The Gamma family on an interval: precisions whose prior has bounds.

A uniform prior of a standard deviation, of a variance or of a precision is conjugate
here: it adds ``(-1/2, 0)``, ``(-1, 0)`` or ``(1, 0)`` to the natural parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families.gamma import GammaNatural
from numpyro_svae.families.gamma_nodes import gamma_nodes
from numpyro_svae.families.matrices import step_to_zero

__all__ = ["LogBounds", "TruncatedGammaNatural"]

Numbers = float | tuple["Numbers", ...]


class LogBounds(NamedTuple):
    """The least and the largest logarithm, as numbers or nested tuples of them.

    They may be infinite, and broadcast with the natural parameters.
    """

    low: Numbers = -inf
    high: Numbers = inf


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["concentration", "rate"],
    meta_fields=["bounds"],
)
@dataclass(frozen=True)
class TruncatedGammaNatural(GammaNatural):
    """Natural parameters of a Gamma that has been truncated to an interval.

    :param concentration: a, of shape ``(...)``; of any sign where the interval does not
        begin at zero.
    :param rate: b, of shape ``(...)``, which is positive; or zero, where the interval
        ends or a is negative.
    :param bounds: of the logarithm of the value.
    """

    bounds: LogBounds

    @property
    def log_bounds(self) -> tuple[Array, Array]:
        dtype = jnp.result_type(self.concentration)
        low, high = (jnp.asarray(x, dtype) for x in self.bounds)
        return low, high

    def log_normalizer(self) -> Array:
        return gamma_nodes(self).log_mass

    def expected_statistics(self) -> TruncatedGammaNatural:
        return replace(self, **vars(self.moments()))

    def moments(self) -> GammaNatural:
        """The expected statistics, as those of any Gamma."""
        nodes = gamma_nodes(self)
        mean_log = nodes.center + nodes.mean(nodes.steps)
        mean = jnp.exp(nodes.center) * nodes.mean(jnp.exp(nodes.steps))
        return GammaNatural(mean_log, -mean)

    def pull_back(
        self, cotangent: GammaNatural, moments: GammaNatural
    ) -> TruncatedGammaNatural:
        return replace(self, **vars(cotangent))

    def kl(self, other: Any) -> Array:
        more = self - other
        gap = other.log_normalizer() - self.log_normalizer()
        return more.inner(self.expected_statistics()) + gap

    def largest_step(self, direction: GammaNatural, enough: float = inf) -> Array:
        low, _ = self.log_bounds
        shape = step_to_zero(self.concentration, direction.concentration)
        shape = jnp.where(jnp.isfinite(low), inf, shape)
        return jnp.minimum(shape, step_to_zero(self.rate, direction.rate))

    def has_density(self) -> Array:
        low, _ = self.log_bounds
        return ((self.concentration > 0) | jnp.isfinite(low)) & (self.rate > 0)

    def in_domain(self) -> bool:
        shape, rate = np.asarray(self.concentration), np.asarray(self.rate)
        low, high = (np.isfinite(end) for end in self.bounds)
        fine = np.isfinite(shape) & np.isfinite(rate) & ((shape > 0) | low)
        return bool(np.all(fine & ((rate > 0) | (rate == 0) & (high | (shape < 0)))))
