# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of global sites with a parameter that is a Gamma site times known numbers.

Precisions of groups, or rates of their counts, are drawn from a population of which the
rate is learnt: ``Gamma(a, c rate)`` with known a and c. So are sticks of a Dirichlet
process: with ``Beta(1, c rate)``, ``-log(1 - v)`` is a ``Gamma(1, c rate)``.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import DirichletNatural, GammaNatural, natural_kl
from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.priors.rate_priors import (
    BetaPrior,
    GammaPrior,
    gamma_parameters,
)
from numpyro_svae.program.priors.spreads import members_of
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.probing import Prober

__all__ = ["BoundRatePopulation", "RatePopulation", "StickPopulation"]

Values = dict[str, Any]


class BoundRatePopulation(NamedTuple):
    """What a program gives of such a prior, in the shape of its site or less.

    :param concentration: a.
    :param entries: which entry of the block above each has, one after the other.
    :param known: c.
    """

    concentration: Array
    entries: Array
    known: Array


@dataclass(frozen=True)
class RatePopulation:
    """The prior of one Gamma block, given the block of its rate.

    :param block: the block.
    :param rate: that of its rate.
    """

    block: PrecisionPrior | GammaPrior | BetaPrior
    rate: PrecisionPrior | GammaPrior

    is_free = False
    of_naturals = False

    @property
    def above(self) -> tuple[Any, ...]:
        """The blocks that the prior depends on."""
        return (self.rate,)

    picks = False

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.block.batch_shape + self.block.features

    def shown(self, sites: dict[str, Site]) -> tuple[Array, Array]:
        """The parameters of the prior in a run."""
        return gamma_parameters(sites[self.block.name].fn)

    def bind(self, prober: Prober) -> BoundRatePopulation:
        """Read what the program gives of it."""
        plain, shape = prober.plain_values(), self.rate.batch_shape + self.rate.features

        def rates(values: Array) -> tuple[Array, Array]:
            given = {self.rate.name: self.rate.of_precisions(values)}
            return self.shown(prober.program.sites({**plain, **given}))

        concentration, known = rates(jnp.ones(shape))
        _, marked = rates(1.0 + jnp.arange(math.prod(shape)).reshape(shape))
        return BoundRatePopulation(concentration, members_of(marked / known), known)

    def agrees(
        self, bound: BoundRatePopulation, values: Values, found: tuple[Array, Array]
    ) -> bool:
        """Whether a run has the parameters that it says."""
        rates = np.ravel(self.rate.precisions(values[self.rate.name]))
        entries = np.clip(bound.entries, 0, len(rates) - 1)
        expected = bound.concentration, bound.known * rates[entries]
        return all(map(same, found, expected))

    def _natural(self, concentration: Array, rate: Array) -> Any:
        """Natural parameters of the prior, from its parameters."""
        return GammaNatural(concentration, rate)

    def _expected(
        self, bound: BoundRatePopulation, moments: dict[str, Any]
    ) -> tuple[Any, Array]:
        """Natural parameters at the expected rate, and what its spread adds."""
        above, (concentration, entries, known) = moments[self.rate.name], bound
        mean = jnp.ravel(-above.rate)[entries]
        log_mean = jnp.ravel(above.concentration)[entries]
        gap = concentration * (jnp.log(mean) - log_mean)
        shape, rate, gap = (
            jnp.broadcast_to(x, self._shape) for x in (concentration, known * mean, gap)
        )
        return self._natural(shape, rate), gap

    def prior(self, bound: BoundRatePopulation, moments: dict[str, Any]) -> Any:
        """Natural parameters at the expectations of other blocks."""
        return self._expected(bound, moments)[0]

    def divergence(
        self, natural: Any, bound: BoundRatePopulation, moments: dict[str, Any]
    ) -> Array:
        """The expected divergence of a posterior, of the batch shape of the block."""
        prior, gap = self._expected(bound, moments)
        total, rank = natural_kl(natural, prior) + gap, len(self.block.batch_shape)
        return jnp.sum(total, tuple(range(rank, total.ndim)))


@dataclass(frozen=True)
class StickPopulation(RatePopulation):
    """The prior ``Beta(1, c rate)``, or ``Beta(c rate, 1)``, of one Beta block.

    :param block: the block.
    :param rate: that of its rate.
    :param first: whether it is the first of its two parameters that is learnt.
    """

    first: bool = False

    picks = True  # the other parameter must be one whatever the arguments are

    def shown(self, sites: dict[str, Site]) -> tuple[Array, Array]:
        fn: Any = sites[self.block.name].fn
        both = fn.concentration1, fn.concentration0
        return both[self.first], both[not self.first]

    def agrees(
        self, bound: BoundRatePopulation, values: Values, found: tuple[Array, Array]
    ) -> bool:
        is_one = bool(np.all(np.equal(bound.concentration, 1.0)))
        return is_one and super().agrees(bound, values, found)

    def _natural(self, concentration: Array, rate: Array) -> DirichletNatural:
        both = (rate, concentration) if self.first else (concentration, rate)
        return DirichletNatural(jnp.stack(both, -1))
