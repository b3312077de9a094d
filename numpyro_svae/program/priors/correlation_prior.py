# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of a correlation matrix and standard deviations."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

from jax import Array, random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import RegressionNatural
from numpyro_svae.families.free_covariance import (
    closest_inverse_wishart,
    free_covariance_kl,
)
from numpyro_svae.families.matrices import transpose
from numpyro_svae.program.priors.noise_priors import CovariancePrior
from numpyro_svae.program.priors.priors import Reading
from numpyro_svae.program.priors.scale_bounds import has_bounds
from numpyro_svae.program.run.sites import Site, is_gaussian

__all__ = ["CorrelationPrior"]

_DRAWS = 256


@dataclass(frozen=True)
class CorrelationPrior(CovariancePrior):
    """A covariance that is spelled as correlations and standard deviations.

    The posterior of the covariance is an inverse-Wishart, and the two priors with their
    change of variables are one more factor, which is not conjugate.

    :param correlation: name of the site of the correlations.
    :param scales: name of the site of the standard deviations.
    :param rooted: whether the correlations are given by their Cholesky factor.
    """

    correlation: str
    scales: str
    rooted: bool

    distributions = (dist.LKJCholesky, dist.LKJ)
    is_free = True

    @classmethod
    def find(cls, reading: Reading, site: Site) -> CorrelationPrior | None:  # type: ignore[override]
        users = reading.users(site.name)
        dim, batch = site.fn.event_shape[-1], reading.batch_of(site)
        partners = [
            name
            for name, other in reading.sites.items()
            if name != site.name
            and not other.observed
            and not is_gaussian(other.fn)
            and jnp.shape(other.value) == (*batch, dim)
            and all(name in reading.needs[user.name] for user in users)
        ]
        if not users or not all(is_gaussian(s.fn) for s in users) or len(partners) != 1:
            return None
        scales = reading.sites[partners[0]]
        if has_bounds(scales.fn):
            raise ValueError(
                f"Site '{scales.name}' ({type(scales.fn).__name__}): found bounds of "
                f"the scales of the correlations '{site.name}', whose posterior with "
                "them is an inverse-Wishart, which has none. Accepted: a prior of any "
                "positive number, as HalfNormal(scale), HalfCauchy or LogNormal."
            )
        pair = {site.name, partners[0]}
        names = tuple(name for name in reading.sites if name in pair)
        rooted = isinstance(site.fn, dist.LKJCholesky)
        return cls(names[-1], names, batch, dim, site.name, partners[0], rooted)

    def _values(self, cov: Any) -> dict[str, Any]:
        """The values of both sites, from a covariance."""
        scales = jnp.sqrt(jnp.diagonal(cov, axis1=-2, axis2=-1))
        root = jnp.linalg.cholesky(cov) / scales[..., None]
        found = root if self.rooted else root @ transpose(root)
        both = {self.correlation: found, self.scales: scales}
        return {name: both[name] for name in self.sites}

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        root = rng.standard_normal((*self.batch_shape, self.dim, self.dim))
        cov = root @ np.swapaxes(root, -1, -2) + self.dim * np.eye(self.dim)
        return {n: np.asarray(x) for n, x in self._values(jnp.asarray(cov)).items()}

    def plain_values(self, column: Any = 0) -> dict[str, Any]:
        count = (1.0 + np.arange(self.components or 1)).reshape(*self.batch_shape, 1)
        return self._diagonal(np.sqrt(count) * np.ones(self.dim))

    def unit_noise(self) -> dict[str, Any]:
        return self._diagonal(np.ones((*self.batch_shape, self.dim)))

    def _diagonal(self, scales: np.ndarray) -> dict[str, Any]:
        eye = np.broadcast_to(np.eye(self.dim), (*scales.shape, self.dim))
        both = {self.correlation: eye, self.scales: scales}
        return {name: both[name] for name in self.sites}

    def covariance_at(self, values: dict[str, Any], dim: int) -> Any:
        root, scales = values[self.correlation], values[self.scales]
        found = root @ np.swapaxes(root, -1, -2) if self.rooted else root
        return scales[..., None] * found * scales[..., None, :]

    # the prior

    def shown(self, sites: dict[str, Site]) -> dict[str, Any]:
        return {name: sites[name].outer for name in self.sites}

    def natural(self, sites: dict[str, Site]) -> RegressionNatural:
        return self.like(self.shown(sites))

    def like(self, prior: dict[str, Any]) -> RegressionNatural:
        """An inverse-Wishart where the scales of a prior are, to begin with."""
        draws = prior[self.scales].sample(random.PRNGKey(0), (_DRAWS,))
        variance = jnp.exp(jnp.mean(2 * jnp.log(draws), 0))
        variance = jnp.broadcast_to(variance, (*self.batch_shape, self.dim))
        df = jnp.full(self.batch_shape, self.dim + 2.0)
        return RegressionNatural(
            df[..., None, None] * variance[..., None] * jnp.eye(self.dim),
            jnp.zeros((*variance.shape, 0)),
            jnp.zeros((*self.batch_shape, 0, 0)),
            df,
        )

    def log_density(self, prior: dict[str, Any], cov: Array) -> Array:
        """The density of covariances under the priors of both sites."""
        values, rank = self._values(cov), cov.ndim - 2
        found = -self.log_stretch(values)
        for name, fn in prior.items():
            part = fn.log_prob(values[name])
            found = found + jnp.sum(part, tuple(range(rank, part.ndim)))
        return found

    def log_stretch(self, values: dict[str, Array]) -> Array:
        root, scales = values[self.correlation], values[self.scales]
        found = self.dim * (log(2.0) + jnp.sum(jnp.log(scales), -1))
        if self.rooted:
            diagonal = jnp.diagonal(root, axis1=-2, axis2=-1)
            powers = self.dim - 1.0 - jnp.arange(self.dim)
            found = found + jnp.sum(powers * jnp.log(diagonal), -1)
        return found

    def message(self, natural: Any, prior: Any) -> RegressionNatural:
        return closest_inverse_wishart(self.log_density, natural, prior)

    def free_divergence(self, natural: Any, prior: Any) -> Array:
        return free_covariance_kl(self.log_density, natural, prior)

    # its posterior

    def unpack(self, value: Array) -> dict[str, Array]:
        return self._values(value)
