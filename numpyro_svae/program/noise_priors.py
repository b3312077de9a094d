# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of noise alone: precisions, variances and covariances."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import GammaNatural, RegressionNatural
from numpyro_svae.families.matrices import log_diagonal
from numpyro_svae.program.priors import Prior
from numpyro_svae.program.rate_priors import FeaturePrior
from numpyro_svae.program.sites import Site

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


@dataclass(frozen=True)
class PrecisionPrior(FeaturePrior):
    """A Gamma prior over precisions, or an inverse-Gamma prior over variances.

    :param inverse: whether the site holds variances.
    """

    inverse: bool

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = self.batch_shape + self.features
        return {self.name: rng.uniform(0.5, 3.0, shape)}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        variance = 1.0 + np.arange(self.components or 1)
        return self._by_member(variance if self.inverse else 1.0 / variance)

    def unit_noise(self) -> dict[str, Any]:
        """The value at which all variances are one."""
        return {self.name: np.ones(self.batch_shape + self.features)}

    def natural(self, sites: dict[str, Site]) -> GammaNatural:
        return self.natural_of(sites[self.name].fn)

    def natural_of(self, fn: Any) -> GammaNatural:
        """Natural parameters of a Gamma or an inverse Gamma."""
        shape = self.batch_shape + self.features
        return GammaNatural(
            jnp.broadcast_to(fn.concentration, shape) + 0.0,
            jnp.broadcast_to(fn.rate, shape) + 0.0,
        )

    def posterior(self, natural: GammaNatural) -> dist.Distribution:
        family = dist.InverseGamma if self.inverse else dist.Gamma
        return family(natural.concentration, natural.rate).to_event(len(self.features))

    def covers(self, dim: int) -> bool:
        """Whether it is the noise of responses with D dimensions."""
        return self.features in ((), (dim,))

    def precisions(self, value: Any) -> Any:
        """Precisions, from the value of the site."""
        return 1.0 / value if self.inverse else value

    def covariance(self, value: Any, dim: int) -> Any:
        """Covariance ``(..., D, D)``, from the value of the site."""
        variance = 1.0 / self.precisions(value)
        if not self.features:
            variance = variance[..., None]
        return variance[..., None] * np.eye(dim)

    def noise(
        self, moments: GammaNatural, dim: int, entries: Array | None = None
    ) -> ExpectedNoise:
        """Moments of the covariance of a response with D dimensions.

        :param entries: which of them count, ``(..., D)``; others add nothing if the
            response and its weight are zero there.
        """
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
        """The prior updated by residuals of a covariance.

        :param cov: of shape ``(..., D, D)``.
        :param count: number of residuals, of shape ``(...)``.
        """
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
class CovariancePrior(Prior):
    """An inverse-Wishart prior: a regression on nothing.

    :param dim: D, of the covariance.
    """

    dim: int

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        root = rng.standard_normal((*self.batch_shape, self.dim, self.dim))
        return {
            self.name: root @ np.swapaxes(root, -1, -2) + self.dim * np.eye(self.dim)
        }

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        count = (1.0 + np.arange(self.components or 1)).reshape(*self.batch_shape, 1, 1)
        return {self.name: count * np.eye(self.dim)}

    def unit_noise(self) -> dict[str, Any]:
        """The value at which all covariances are one."""
        shape = (*self.batch_shape, self.dim, self.dim)
        return {self.name: np.broadcast_to(np.eye(self.dim), shape)}

    def natural(self, sites: dict[str, Site]) -> RegressionNatural:
        return self.natural_of(sites[self.name].fn)

    def natural_of(self, fn: Any) -> RegressionNatural:
        """Natural parameters of an inverse-Wishart distribution."""
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
        """Whether it is the noise of responses with D dimensions."""
        return self.dim == dim

    def covariance(self, value: Any, dim: int) -> Any:
        """Covariance ``(..., D, D)``, from the value of the site."""
        return value

    def noise(
        self, moments: Any, dim: int, entries: Array | None = None
    ) -> ExpectedNoise:
        """Moments of the covariance of a response with D dimensions, all of them."""
        return ExpectedNoise(moments.covariance, moments.log_det)

    def start(
        self, prior: RegressionNatural, cov: Array, count: Array
    ) -> RegressionNatural:
        """The prior updated by residuals; see :meth:`PrecisionPrior.start`."""
        if cov.ndim > 2 and not self.batch_shape:
            cov, count = jnp.sum(cov, 0), jnp.sum(count, 0)
        return RegressionNatural(prior.vv + cov, prior.vu, prior.uu, prior.df + count)


NoisePrior = PrecisionPrior | CovariancePrior
