# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of noise alone: what factors read of them, and covariances."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import log, pi
from typing import Any, ClassVar, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import (
    NaturalParameters,
    RegressionNatural,
)
from numpyro_svae.families.matrices import log_diagonal
from numpyro_svae.program.priors.joint_prior import wrong_regression
from numpyro_svae.program.priors.priors import Prior, Reading
from numpyro_svae.program.run.sites import Site

__all__ = ["CovariancePrior", "ExpectedNoise", "NoisePrior"]


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

    def covariance_at(self, values: dict[str, Any], dim: int) -> Any:
        """The same, from values by site."""
        return self.covariance(values[self.name], dim)

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
class CovariancePrior(NoisePrior):
    """An inverse-Wishart prior: a regression on nothing.

    :param dim: D, of the covariance.
    """

    dim: int

    distributions: ClassVar[tuple[type[dist.Distribution], ...]] = (
        dist.InverseWishart,
    )

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
