# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of scales whose parameters depend on other global blocks.

Standard deviations of groups have a scale that is learnt, as in
``HalfNormal(tau)``, or a location and a spread of their logarithms. Such a prior need
not be conjugate. It is averaged by quadrature over the blocks that it depends on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
import math
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import GammaNatural, NaturalParameters
from numpyro_svae.families.free_population import Parent, population_kl
from numpyro_svae.program.priors.gaussian_prior import GaussianPrior
from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.priors.rate_priors import GammaPrior
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.likelihoods import Likelihoods, Statics
from numpyro_svae.program.structure.probing import Prober

__all__ = ["BoundFreePopulation", "FreePopulation"]

Values = dict[str, Any]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "plain", "entries", "apart"],
    meta_fields=["statics", "population"],
)
@dataclass(frozen=True)
class BoundFreePopulation:
    """What a program gives of such a prior.

    :param arrays: those of the program.
    :param plain: values of its latent sites.
    :param entries: which entry of each block above each scale depends on, one after the
        other.
    :param apart: whether that is one entry at most.
    :param statics: what is no array in the program.
    :param population: the prior.
    """

    arrays: dict[int, Any]
    plain: Values
    entries: tuple[Array, ...]
    apart: Array
    statics: Statics
    population: FreePopulation

    def fn(self, values: Values) -> Any:
        """The distribution of the site, given other sites."""
        program = self.statics.program(self.arrays)
        return program.sites({**self.plain, **values})[self.population.block.name].fn

    def log_density(self, values: tuple[Array, ...], log_precision: Array) -> Array:
        """The prior of the logs of precisions, ``(N, *shape)``.

        :param values: of the blocks above; logs of those that are Gammas.
        """
        given = self.population.values(values)
        return self.population.block.log_density(self.fn(given), log_precision)


@dataclass(frozen=True)
class FreePopulation:
    """The prior of a block of scales, given others.

    :param block: the block.
    :param above: the blocks that the prior depends on.
    """

    block: PrecisionPrior
    above: tuple[PrecisionPrior | GammaPrior | GaussianPrior, ...]

    picks = False
    is_free = True
    of_naturals = True

    @classmethod
    def fits(cls, block: Any, above: list[Any]) -> bool:
        """Whether blocks are of kinds that such a prior may be of."""
        return (
            isinstance(block, PrecisionPrior)
            and 0 < len(above) <= 2
            and all(map(_has_entries, above))
        )

    def values(self, values: tuple[Array, ...]) -> Values:
        """The values of the sites above, from those that they are averaged over."""
        found: Values = {}
        for block, value in zip(self.above, values):
            if isinstance(block, GaussianPrior):
                shape = (*block.batch_shape, block.dim, block.columns)
                found |= block.values(value.reshape(shape))
            else:
                found[block.name] = block.of_precisions(jnp.exp(value))
        return found

    def shown(self, sites: dict[str, Site]) -> tuple[()]:
        """Any distribution will do."""
        return ()

    def bind(self, prober: Prober) -> BoundFreePopulation:
        """Read what the program gives of it."""
        program = replace(prober.program, key=random.PRNGKey(0))  # nothing is drawn
        statics, arrays = Likelihoods.split(program)
        shape = self.block.batch_shape + self.block.features
        none = tuple(jnp.zeros(shape, int) for _ in self.above)
        plain = {n: jnp.asarray(x) for n, x in prober.plain_values().items()}
        bound = BoundFreePopulation(arrays, plain, none, jnp.array(True), statics, self)
        seen = [_seen(bound, index, shape) for index in range(len(self.above))]
        entries = tuple(jnp.argmax(x, 0) for x in seen)
        apart = jnp.all(jnp.stack([jnp.all(jnp.sum(x, 0) <= 1) for x in seen]))
        return replace(bound, entries=entries, apart=apart)

    def agrees(self, bound: BoundFreePopulation, values: Values, found: Any) -> bool:
        """Whether each scale depends on one entry of each block."""
        return bool(bound.apart)

    def _typical(self, bound: BoundFreePopulation, moments: dict[str, Any]) -> Any:
        """The distribution of the site at typical values of the blocks above."""
        values = tuple(
            moments[b.name].mean
            if isinstance(b, GaussianPrior)
            else moments[b.name].concentration
            for b in self.above
        )
        return bound.fn(self.values(values))

    def prior(
        self, bound: BoundFreePopulation, moments: dict[str, Any]
    ) -> NaturalParameters:
        """Natural parameters of a Gamma that is like it."""
        return self.block.like(self._typical(bound, moments))

    def message(
        self, bound: BoundFreePopulation, natural: Any, moments: dict[str, Any]
    ) -> NaturalParameters:
        """Natural parameters of the Gamma that it is like at a posterior."""
        return self.block.message(natural, self._typical(bound, moments))

    def divergence(
        self, natural: GammaNatural, bound: BoundFreePopulation, naturals: dict
    ) -> Array:
        """The expected divergence of a posterior, of the batch shape of the block.

        :param naturals: natural parameters of all blocks.
        """
        parents = tuple(
            Parent(naturals[block.name], entries)
            for block, entries in zip(self.above, bound.entries)
        )
        kl, rank = population_kl(natural, parents, bound), len(self.block.batch_shape)
        return jnp.sum(kl, tuple(range(rank, kl.ndim)))


def _has_entries(block: Any) -> bool:
    """Whether the entries of a block are independent under the guide."""
    if isinstance(block, GaussianPrior):
        return block.columns == 1 and (block.by_row or block.dim == 1)
    return isinstance(block, PrecisionPrior | GammaPrior)


def _shape(block: Any) -> tuple[int, ...]:
    if isinstance(block, GaussianPrior):
        return (*block.batch_shape, block.dim)
    return block.batch_shape + block.features


def _seen(bound: BoundFreePopulation, index: int, shape: tuple[int, ...]) -> Array:
    """Which entries ``(E, *shape)`` of a block each scale depends on."""
    above = bound.population.above
    rng = np.random.default_rng(0)
    values = [jnp.asarray(rng.normal(0.0, 0.3, _shape(block))) for block in above]
    units = jnp.eye(math.prod(_shape(above[index]))).reshape(-1, *_shape(above[index]))

    def at(unit: Array) -> Array:
        moved = [v + 0.3 * unit if i == index else v for i, v in enumerate(values)]
        found = bound.log_density(tuple(moved), jnp.full((1, *shape), 0.2))
        return jnp.broadcast_to(found, (1, *shape))[0]

    return jax.vmap(at)(units) != at(jnp.zeros(units.shape[1:]))
