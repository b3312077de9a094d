# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of noise alone: precisions, variances and covariances."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import log, pi
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import (
    GammaNatural,
    NaturalParameters,
    RegressionNatural,
)
from numpyro_svae.families.matrices import log_diagonal
from numpyro_svae.program.joint_prior import wrong_regression
from numpyro_svae.program.priors import Prior, Reading
from numpyro_svae.program.rate_priors import POPULATION_OF_RATES, FeaturePrior
from numpyro_svae.program.sites import Site, is_gaussian

__all__ = ["CovariancePrior", "ExpectedNoise", "NoisePrior", "PrecisionPrior"]


class ExpectedNoise(NamedTuple):
    """Moments of a covariance.

    :param covariance: :math:`E[\\Sigma^{-1}]^{-1}`, of shape ``(..., D, D)``.
    :param log_det: :math:`E \\log|\\Sigma|`, of shape ``(...)``.
    """

    covariance: Array
    log_det: Array

    @classmethod
    def of(cls, covariance: Array) -> ExpectedNoise:
        """Those of a covariance that is known."""
        tril = jnp.linalg.cholesky(covariance)
        return cls(covariance, 2 * log_diagonal(tril))

    def only(self, entries: Array) -> ExpectedNoise:
        """The same of some entries of the response: others add nothing at value zero.

        :param entries: which ones, of shape ``(..., D)``. The covariance is diagonal,
            and known.
        """
        variance = jnp.diagonal(self.covariance, axis1=-2, axis2=-1)
        log_variance = jnp.where(entries, jnp.log(variance), -log(2 * pi))
        variance = jnp.where(entries, variance, 1.0)
        covariance = variance[..., None] * jnp.eye(variance.shape[-1])
        return ExpectedNoise(covariance, jnp.sum(log_variance, -1))


class NoisePrior(Prior):
    """A prior over the covariance of a Gaussian factor, whatever its location is."""

    part = "noise"
    by_entry = False
    """Whether each entry of a response has a precision of its own."""

    columns = 0
    """It has no weight."""

    @abstractmethod
    def covers(self, dim: int) -> bool:
        """Whether it can be the noise of responses with D dimensions."""

    @abstractmethod
    def unit_noise(self) -> dict[str, Any]:
        """The value of its site at which all covariances are one."""

    @abstractmethod
    def covariance(self, value: Any, dim: int) -> Any:
        """Covariance ``(..., D, D)``, from the value of the site."""

    @abstractmethod
    def noise(
        self, moments: Any, dim: int, entries: Array | None = None
    ) -> ExpectedNoise:
        """Moments of the covariance of a response with D dimensions.

        :param moments: of the block.
        :param entries: which of the entries count, ``(..., D)``, where the noise is
            diagonal; others add nothing if the response and its weight are zero there.
        """

    @abstractmethod
    def start(self, prior: Any, cov: Array, count: Array) -> NaturalParameters:
        """The prior updated by residuals.

        :param prior: its natural parameters.
        :param cov: the sum of squares of the residuals, of shape ``(..., D, D)``.
        :param count: number of residuals, of shape ``(...)``.
        """


@dataclass(frozen=True)
class PrecisionPrior(FeaturePrior, NoisePrior):
    """A Gamma prior over precisions, or an inverse-Gamma prior over variances.

    :param inverse: whether the site holds variances.
    """

    inverse: bool

    by_entry = of_rates = True
    distributions = (dist.Gamma, dist.InverseGamma)
    accepted = f"{Prior.accepted}; or {POPULATION_OF_RATES}"

    @classmethod
    def find(cls, reading: Reading, site: Site) -> PrecisionPrior | None:
        inverse = isinstance(site.fn, dist.InverseGamma)
        if not inverse and not any(is_gaussian(s.fn) for s in reading.users(site.name)):
            return None
        features, batch = site.outer.event_shape, reading.batch_of(site)
        return cls(site.name, (site.name,), batch, features, inverse)

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        return np.full(event_shape, 0.5)

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = self.batch_shape + self.features
        return {self.name: rng.uniform(0.5, 3.0, shape)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        variance = 1.0 + np.arange(self.components or 1)
        return self._by_member(variance if self.inverse else 1.0 / variance)

    def unit_noise(self) -> dict[str, Any]:
        return {self.name: np.ones(self.batch_shape + self.features)}

    def natural(self, sites: dict[str, Site]) -> GammaNatural:
        return self.natural_of(sites[self.name].fn)

    def natural_of(self, fn: Any) -> GammaNatural:
        shape = self.batch_shape + self.features
        return GammaNatural(
            jnp.broadcast_to(fn.concentration, shape) + 0.0,
            jnp.broadcast_to(fn.rate, shape) + 0.0,
        )

    def posterior(self, natural: GammaNatural) -> dist.Distribution:
        family = dist.InverseGamma if self.inverse else dist.Gamma
        return family(natural.concentration, natural.rate).to_event(len(self.features))

    def covers(self, dim: int) -> bool:
        return self.features in ((), (dim,))

    def precisions(self, value: Any) -> Any:
        """Precisions, from the value of the site."""
        return 1.0 / value if self.inverse else value

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
        return prior + GammaNatural(0.5 * count, 0.5 * per_one)


@dataclass(frozen=True)
class CovariancePrior(NoisePrior):
    """An inverse-Wishart prior: a regression on nothing.

    :param dim: D, of the covariance.
    """

    dim: int

    distributions = (dist.InverseWishart,)

    @classmethod
    def find(cls, reading: Reading, site: Site) -> CovariancePrior:
        dim, batch = site.fn.event_shape[-1], reading.batch_of(site)
        return cls(site.name, (site.name,), batch, dim)

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        return np.eye(event_shape[-1])

    def fault(self, natural: RegressionNatural) -> str | None:
        fine = natural.in_domain()
        return None if fine else wrong_regression(self.name, self.name, natural)

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        root = rng.standard_normal((*self.batch_shape, self.dim, self.dim))
        return {
            self.name: root @ np.swapaxes(root, -1, -2) + self.dim * np.eye(self.dim)
        }

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        count = (1.0 + np.arange(self.components or 1)).reshape(*self.batch_shape, 1, 1)
        return {self.name: count * np.eye(self.dim)}

    def unit_noise(self) -> dict[str, Any]:
        shape = (*self.batch_shape, self.dim, self.dim)
        return {self.name: np.broadcast_to(np.eye(self.dim), shape)}

    def natural(self, sites: dict[str, Site]) -> RegressionNatural:
        return self.natural_of(sites[self.name].fn)

    def natural_of(self, fn: Any) -> RegressionNatural:
        tril = fn.base_dist.scale_tril
        scale = tril @ jnp.swapaxes(tril, -1, -2)
        shape = (*self.batch_shape, self.dim)
        return RegressionNatural(
            jnp.broadcast_to(scale, (*shape, self.dim)),
            jnp.zeros((*shape, 0)),
            jnp.zeros((*self.batch_shape, 0, 0)),
            jnp.broadcast_to(fn.concentration, self.batch_shape) + 0.0,
        )

    def posterior(self, natural: RegressionNatural) -> dist.Distribution:
        return dist.InverseWishart(natural.df, scale_matrix=natural.vv)

    def unpack(self, value: Array) -> dict[str, Array]:
        return {self.name: value}

    def covers(self, dim: int) -> bool:
        return self.dim == dim

    def covariance(self, value: Any, dim: int) -> Any:
        return value

    def noise(
        self, moments: Any, dim: int, entries: Array | None = None
    ) -> ExpectedNoise:
        return ExpectedNoise(moments.covariance, moments.log_det)

    def start(
        self, prior: RegressionNatural, cov: Array, count: Array
    ) -> RegressionNatural:
        if cov.ndim > 2 and not self.batch_shape:
            cov, count = jnp.sum(cov, 0), jnp.sum(count, 0)
        return RegressionNatural(prior.vv + cov, prior.vu, prior.uu, prior.df + count)
