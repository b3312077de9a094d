# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of one parameter for each feature: probabilities and rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import DirichletNatural, GammaNatural, NaturalParameters
from numpyro_svae.program.priors import Prior
from numpyro_svae.program.sites import Site

__all__ = ["BetaPrior", "FeaturePrior", "GammaPrior"]


@dataclass(frozen=True)
class FeaturePrior(Prior):
    """A prior over one parameter of each feature of an observation.

    :param feature_shape: shape of the features: ``()``, or what ``to_event`` made.
    """

    feature_shape: tuple[int, ...]

    @property
    def features(self) -> tuple[int, ...]:
        return self.feature_shape

    def _by_member(self, values: np.ndarray) -> dict[str, Any]:
        """A value for each member of the batch, the same for all of its features."""
        shape = self.batch_shape + self.features
        values = np.reshape(values, self.batch_shape + (1,) * len(self.features))
        return {self.name: np.broadcast_to(values, shape)}

    def _first(self, parameter: Array) -> Array:
        """The first feature of a parameter ``(..., *features)``."""
        return parameter[(..., *(0,) * len(self.features))]

    def unpack(self, value: Array) -> dict[str, Array]:
        return {self.name: value}


@dataclass(frozen=True)
class BetaPrior(FeaturePrior):
    """A Beta prior over probabilities p: a Dirichlet over ``(p, 1 - p)``."""

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = self.batch_shape + self.features
        return {self.name: rng.uniform(0.1, 0.9, shape)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        count = self.components or 1
        return self._by_member((1.0 + np.arange(count)) / (1.0 + count))

    def members(self, parameter: Array) -> Array:
        count = 1 + (self.components or 1)
        found = jnp.round(self._first(parameter) * count)
        return found.astype(jnp.int32) - 1

    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        fn = sites[self.name].fn
        counts = jnp.stack(
            jnp.broadcast_arrays(fn.concentration1, fn.concentration0), -1
        )
        shape = (*self.batch_shape, *self.features, 2)
        return DirichletNatural(jnp.broadcast_to(counts, shape) + 0.0)

    def posterior(self, natural: DirichletNatural) -> dist.Distribution:
        first, second = natural.concentration[..., 0], natural.concentration[..., 1]
        return dist.Beta(first, second).to_event(len(self.features))


@dataclass(frozen=True)
class GammaPrior(FeaturePrior):
    """A Gamma prior over rates."""

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        return {self.name: rng.uniform(0.5, 3.0, self.batch_shape + self.features)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        return self._by_member(1.0 + np.arange(self.components or 1))

    def members(self, parameter: Array) -> Array:
        return jnp.round(self._first(parameter)).astype(jnp.int32) - 1

    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        fn = sites[self.name].fn
        shape = self.batch_shape + self.features
        return GammaNatural(
            jnp.broadcast_to(fn.concentration, shape) + 0.0,
            jnp.broadcast_to(fn.rate, shape) + 0.0,
        )

    def posterior(self, natural: GammaNatural) -> dist.Distribution:
        return dist.Gamma(natural.concentration, natural.rate).to_event(
            len(self.features)
        )
