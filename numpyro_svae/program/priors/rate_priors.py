# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of one parameter for each feature: probabilities and rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import DirichletNatural, GammaNatural, NaturalParameters
from numpyro_svae.program.priors.priors import Prior, Reading
from numpyro_svae.program.priors.table_priors import TablePrior, wrong_concentration
from numpyro_svae.program.run.origins import depends
from numpyro_svae.program.run.sites import Program, Site, is_gaussian

__all__ = [
    "POPULATION_OF_RATES",
    "BetaPrior",
    "FeaturePrior",
    "GammaPrior",
    "gamma_parameters",
]

POPULATION_OF_RATES = (
    "a fixed shape and a rate that is a Gamma site times known numbers"
)


@dataclass(frozen=True)
class FeaturePrior(Prior):
    """A prior over one parameter of each feature of an observation.

    :param feature_shape: shape of the features: ``()``, or what ``to_event`` made.
    """

    feature_shape: tuple[int, ...]

    @property
    def features(self) -> tuple[int, ...]:
        return self.feature_shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value of the site."""
        return self.batch_shape + self.features

    def _by_member(self, values: np.ndarray) -> dict[str, Any]:
        """A value for each member of the batch, the same for all of its features."""
        values = np.reshape(values, self.batch_shape + (1,) * len(self.features))
        return {self.name: np.broadcast_to(values, self.shape)}

    def unpack(self, value: Array) -> dict[str, Array]:
        return {self.name: value}


class _RatePrior(FeaturePrior, TablePrior):
    """A prior over probabilities or rates, of which each is an entry of its own."""

    def values_of(self, rows: Any) -> dict[str, Any]:
        return {self.name: rows[..., 0].reshape(self.shape)}


@dataclass(frozen=True)
class BetaPrior(_RatePrior):
    """A Beta prior over probabilities p: a Dirichlet over ``(p, 1 - p)``.

    ``Uniform(0, 1)`` is the one with counts of one.
    """

    size = 2
    distributions = (dist.Beta, dist.Uniform)
    accepted = (
        f"{Prior.accepted}; or one of the two of them, as that of the sticks of a "
        "Dirichlet process in Beta(1, alpha), a Gamma site times known numbers, where "
        "the other is 1"
    )

    @classmethod
    def find(cls, reading: Reading, site: Site) -> BetaPrior | None:
        uniform = isinstance(site.fn, dist.Uniform)
        if uniform and (_is_of_gaussians(reading, site) or not _is_unit(reading, site)):
            return None
        features = site.outer.event_shape
        return cls(site.name, (site.name,), site.batch_shape, features)

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        return np.full(event_shape, 0.5)

    def rows_of(self, values: dict[str, Any]) -> np.ndarray:
        found = np.ravel(values[self.name])
        return np.stack([found, 1 - found], -1)

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        return {self.name: rng.uniform(0.1, 0.9, self.shape)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        return {self.name: np.full(self.shape, 0.5)}

    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        counts = self.natural_of(sites[self.name].fn).concentration
        return DirichletNatural(jnp.broadcast_to(counts, (*self.shape, 2)) + 0.0)

    def natural_of(self, fn: Any) -> DirichletNatural:
        if isinstance(fn, dist.Uniform):
            return DirichletNatural(jnp.ones((*fn.batch_shape, 2)))
        both = jnp.broadcast_arrays(fn.concentration1, fn.concentration0)
        return DirichletNatural(jnp.stack(both, -1))

    def fault(self, natural: DirichletNatural) -> str | None:
        fine = natural.in_domain() and np.all(np.asarray(natural.concentration))
        return None if fine else wrong_concentration(self.name, natural)

    def posterior(self, natural: DirichletNatural) -> dist.Distribution:
        first, second = natural.concentration[..., 0], natural.concentration[..., 1]
        return dist.Beta(first, second).to_event(len(self.features))


@dataclass(frozen=True)
class GammaPrior(_RatePrior):
    """A Gamma prior over rates; an Exponential one is that of shape one."""

    size = 1
    normalised = False
    distributions = (dist.Gamma, dist.Exponential)
    accepted = f"{Prior.accepted}; or {POPULATION_OF_RATES}"

    @classmethod
    def find(cls, reading: Reading, site: Site) -> GammaPrior | None:
        exponential = isinstance(site.fn, dist.Exponential)
        if exponential and _is_of_gaussians(reading, site):
            return None
        features = site.outer.event_shape
        return cls(site.name, (site.name,), site.batch_shape, features)

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        return np.full(event_shape, 0.5)

    @property
    def of_rates(self) -> bool:
        return True

    def rows_of(self, values: dict[str, Any]) -> np.ndarray:
        return np.reshape(values[self.name], (-1, 1))

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        return {self.name: rng.uniform(0.5, 3.0, self.shape)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        return {self.name: np.ones(self.shape)}

    def precisions(self, value: Any) -> Any:
        """What factors depend on, from the value of the site."""
        return value

    def of_precisions(self, value: Any) -> Any:
        """The value of the site, from what factors depend on."""
        return value

    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        natural = self.natural_of(sites[self.name].fn)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, self.shape) + 0.0, natural)

    def natural_of(self, fn: Any) -> GammaNatural:
        return GammaNatural(*gamma_parameters(fn))

    def posterior(self, natural: GammaNatural) -> dist.Distribution:
        return dist.Gamma(natural.concentration, natural.rate).to_event(
            len(self.features)
        )


def gamma_parameters(fn: Any) -> tuple[Array, Array]:
    """The shape and the rate of a Gamma distribution, or of an Exponential one."""
    if isinstance(fn, dist.Exponential):
        return jnp.ones_like(fn.rate, dtype=float), fn.rate
    return fn.concentration, fn.rate


def _is_of_gaussians(reading: Reading, site: Site) -> bool:
    """Whether Gaussian sites depend on a site."""
    return any(is_gaussian(user.fn) for user in reading.users(site.name))


def _is_unit(reading: Reading, site: Site) -> bool:
    """Whether a uniform prior is that from zero to one, whatever the arguments are."""

    def ends(program: Program) -> list[Array]:
        fn: Any = program.sites({})[site.name].fn
        return [jnp.asarray(fn.low), jnp.asarray(fn.high)]

    fn: Any = site.fn
    unit = np.all(np.equal(fn.low, 0)) and np.all(np.equal(fn.high, 1))
    given = reading.needs[site.name] or depends(reading.program, ends)
    return bool(unit) and not given
