# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of independent scales: precisions, variances, standard deviations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from math import log, pi
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.special import digamma
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.constraints import is_dependent

from numpyro_svae.distributions.root_inverse_gamma import (
    is_power_of_gamma,
    power_of_gamma,
)
from numpyro_svae.distributions.truncated_gamma import PowerOfTruncatedGamma
from numpyro_svae.families import GammaNatural, LogBounds, TruncatedGammaNatural
from numpyro_svae.families.free_prior import closest_gamma, free_kl
from numpyro_svae.program.priors.noise_priors import ExpectedNoise, NoisePrior
from numpyro_svae.program.priors.priors import Prior, Reading
from numpyro_svae.program.priors.rate_priors import POPULATION_OF_RATES, FeaturePrior
from numpyro_svae.program.priors.scale_bounds import log_bounds
from numpyro_svae.program.run.classes import entries_by_class
from numpyro_svae.program.run.sites import Site, is_gaussian

__all__ = ["PrecisionPrior"]

_CONJUGATE = (dist.Gamma, 1), (dist.InverseGamma, -1)
_FREE = (
    dist.HalfNormal,
    dist.HalfCauchy,
    dist.LogNormal,
    dist.Exponential,
    dist.Weibull,
    dist.FoldedDistribution,
)
_BOUNDED = (
    dist.Uniform,
    dist.LogUniform,
    dist.Pareto,
    dist.LeftTruncatedDistribution,
    dist.TwoSidedTruncatedDistribution,
)
_DRAWS, _LEAST_SHAPE = 256, 2.0
_SCALES = {  # the parameters of a Gaussian that have its noise, as powers of its scale
    "scale": 1,
    "scale_tril": 1,
    "scale_tril_row": 1,
    "initial_cov": 2,
    "transition_cov": 2,
    "rate": -2,  # of a scale that is drawn from an Exponential
}


@dataclass(frozen=True)
class PrecisionPrior(FeaturePrior, NoisePrior):
    """A prior over precisions, variances or standard deviations.

    The posterior of the precisions is a Gamma, whatever the prior: one that is none of
    Gamma precisions or inverse-Gamma variances is one more factor, which is not
    conjugate (see :func:`~numpyro_svae.families.free_prior.free_kl`).

    :param power: the power of the value of the site that is a precision: 1, or -1 for
        variances, or -2 for standard deviations.
    :param free: whether the prior is not conjugate.
    :param bounds: of the logs of the precisions, where the prior has any; the posterior
        is truncated to them.
    """

    power: int
    free: bool
    bounds: LogBounds | None = None

    by_entry = True
    distributions = (dist.Gamma, dist.InverseGamma, *_FREE, *_BOUNDED)
    accepted = (
        f"{Prior.accepted}; or {POPULATION_OF_RATES}; or parameters that are functions "
        "of one or two other sites, each scale of one entry of each: scales, or Normal "
        "sites of numbers, as in HalfNormal(tau[region]) or LogNormal(mu, tau)"
    )

    @classmethod
    def find(cls, reading: Reading, site: Site) -> PrecisionPrior | None:
        conjugate = next(entries_by_class(_CONJUGATE, site.fn), None)
        every = reading.users(site.name)
        users = [s for s in every if is_gaussian(s.fn)]
        latent = (s for s in every if not s.observed)
        above = [s for s in latent if isinstance(s.fn, (*_FREE, *_BOUNDED))]
        if conjugate != -1 and not users + above:
            return None
        power = _power(reading, site, users or above) or conjugate
        if power is None and above and not users:
            power = -2  # any family will do
        if power is None:
            return None
        features, batch = site.outer.event_shape, reading.batch_of(site)
        free = power != conjugate
        bounds = log_bounds(reading, site, power)
        return cls(site.name, (site.name,), batch, features, power, free, bounds)

    @property
    def of_rates(self) -> bool:
        return not self.free

    @property
    def is_free(self) -> bool:
        return self.free

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        return np.full(event_shape, 0.5)

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = self.batch_shape + self.features
        return {self.name: rng.uniform(0.5, 3.0, shape)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        variance = 1.0 + np.arange(self.components or 1)
        return self._by_member(self.of_precisions(1.0 / variance))

    def unit_noise(self) -> dict[str, Any]:
        return {self.name: np.ones(self.batch_shape + self.features)}

    def natural(self, sites: dict[str, Site]) -> GammaNatural:
        fn: Any = sites[self.name].fn
        return self.like(fn) if self.free else self.natural_of(fn)

    def like(self, fn: Any) -> GammaNatural:
        """Natural parameters of a Gamma that is where a prior is, to begin with.

        The logarithm has the mean that it has under the prior, and nearly its variance
        if that is not so large that expectations under the Gamma are infinite. They are
        NaN where a parameter is not one that the prior accepts.

        :param fn: the distribution of the site.
        """
        logs = self.power * jnp.log(fn.sample(random.PRNGKey(0), (_DRAWS,)))
        mean, variance = jnp.mean(logs, 0), jnp.var(logs, 0)
        shape = (1 + jnp.sqrt(1 + 2 * variance)) / (2 * variance)  # of trigamma
        shape = jnp.maximum(shape, _LEAST_SHAPE)
        fine = reduce(jnp.logical_and, map(jnp.all, _valid(fn)), jnp.array(True))
        rate = jnp.where(fine, jnp.exp(digamma(shape) - mean), jnp.nan)
        return self._full(shape, rate)

    def log_density(self, fn: Any, log_precision: Array) -> Array:
        """The prior of the logs of precisions.

        :param fn: the distribution of the site.
        :param log_precision: of the shape of the site, after other axes.
        """
        log_value = log_precision / self.power
        return fn.log_prob(jnp.exp(log_value)) + log_value - log(abs(self.power))

    def shown(self, sites: dict[str, Site]) -> Any:
        """The distribution of the site in a run."""
        return sites[self.name].fn

    def message(self, natural: GammaNatural, prior: Any) -> GammaNatural:
        """The Gamma that a prior is like at a posterior."""
        return closest_gamma(self.log_density, natural, prior)

    def free_divergence(self, natural: GammaNatural, prior: Any) -> Array:
        """The divergence of a posterior from a prior, of the shape of the site."""
        return free_kl(self.log_density, natural, prior)

    def natural_of(self, fn: Any) -> GammaNatural:
        if self.bounds is not None and not isinstance(fn, PowerOfTruncatedGamma):
            raise TypeError("found a start without the bounds of the prior")
        if self.bounds is None and not is_power_of_gamma(self.power, fn):
            raise TypeError("found a start of another power of the precisions")
        return self._full(fn.concentration, fn.rate)

    def _full(self, concentration: Any, rate: Any) -> GammaNatural:
        shape = self.batch_shape + self.features
        a, b = (jnp.broadcast_to(x, shape) + 0.0 for x in (concentration, rate))
        if self.bounds is None:
            return GammaNatural(a, b)
        return TruncatedGammaNatural(concentration=a, rate=b, bounds=self.bounds)

    def posterior(self, natural: GammaNatural) -> dist.Distribution:
        both = natural.concentration, natural.rate
        fn: dist.Distribution
        if self.bounds is None:
            fn = power_of_gamma(self.power, *both)
        else:
            fn = PowerOfTruncatedGamma(*both, self.power, self.bounds)
        return fn.to_event(len(self.features))

    def covers(self, dim: int) -> bool:
        return self.features in ((), (dim,))

    def precisions(self, value: Any) -> Any:
        """Precisions, from the value of the site."""
        return value**self.power

    def of_precisions(self, precision: Any) -> Any:
        """The value of the site, from precisions."""
        return precision ** (1.0 / self.power)

    def covariance(self, value: Any, dim: int) -> Any:
        variance = 1.0 / self.precisions(value)
        if not self.features:
            variance = variance[..., None]
        return variance[..., None] * np.eye(dim)

    def noise(
        self, moments: GammaNatural, dim: int, entries: Array | None = None
    ) -> ExpectedNoise:
        variance, log_variance = -1.0 / moments.rate, -moments.concentration
        if not self.features:
            variance, log_variance = variance[..., None], log_variance[..., None]
        shape = (*variance.shape[:-1], dim)
        log_variance = jnp.broadcast_to(log_variance, shape)
        if entries is not None:
            variance = jnp.where(entries, variance, 1.0)
            log_variance = jnp.where(entries, log_variance, -log(2 * pi))
        covariance = variance[..., None] * jnp.eye(dim, dtype=variance.dtype)
        return ExpectedNoise(covariance, jnp.sum(log_variance, -1))

    def start(self, prior: GammaNatural, cov: Array, count: Array) -> GammaNatural:
        squares = jnp.diagonal(cov, axis1=-2, axis2=-1)
        if not self.features:
            squares, count = jnp.sum(squares, -1), cov.shape[-1] * count
        else:
            count = jnp.broadcast_to(count[..., None], squares.shape)
        if cov.ndim > 2 and not self.batch_shape:
            squares, count = jnp.sum(squares, 0), jnp.sum(count, 0)
        per_one = squares * jnp.ones_like(count)
        return prior + replace(prior, concentration=0.5 * count, rate=0.5 * per_one)


def _power(reading: Reading, site: Site, users: list[Site]) -> int | None:
    """Which power of its value the noise of Gaussian sites has as their precision.

    :return: None if that is none, or not the same everywhere.
    """

    @jax.jit
    def noises(value: Array) -> list[dict[str, Array]]:
        sites = reading.program.sites({site.name: jnp.full(site.value.shape, value)})
        found = (sites[user.name].fn for user in users)
        return [{n: getattr(fn, n) for n in _SCALES if hasattr(fn, n)} for fn in found]

    powers = set[float]()
    for before, after in zip(noises(jnp.ones(())), noises(2 * jnp.ones(()))):
        for name in before:
            first, second = (np.asarray(fn[name], float) for fn in (before, after))
            moved = (first != 0) & ~np.isclose(first, second, 1e-4)
            ratio = np.log2(np.abs(second[moved] / first[moved])) / _SCALES[name]
            powers |= {float(x) for x in np.round(-2 * ratio, 2)}
    found = powers.pop() if len(powers) == 1 else None
    return int(found) if found in (1, -1, -2) else None


def _valid(fn: Any) -> Iterator[Any]:
    """Which parameters of a distribution are those that it accepts."""
    for name, constraint in fn.arg_constraints.items():
        if not is_dependent(constraint):  # bounds, which have been looked at
            yield constraint(getattr(fn, name))
