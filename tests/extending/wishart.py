# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A global block of one's own: a precision matrix with a Wishart prior.

The inverse of a Wishart matrix is inverse-Wishart, so that its natural parameters and
what is expected of it are those of a covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import RegressionNatural
from numpyro_svae.kinds import NoisePrior
from numpyro_svae.program.priors.noise_priors import ExpectedNoise


@dataclass(frozen=True)
class WishartPrior(NoisePrior):
    """``Wishart(concentration, rate_matrix=R)`` over a precision, which is the noise of
    ``MultivariateNormal(loc, precision_matrix=...)``.

    :param dim: D, of the precision.
    """

    dim: int

    distributions = (dist.Wishart, dist.WishartCholesky)

    # how it is recognised

    @classmethod
    def find(cls, reading, site):
        if isinstance(site.fn, dist.WishartCholesky):
            raise ValueError(
                f"Site '{site.name}': found a WishartCholesky. Accepted: a Wishart."
            )
        dim, batch = site.fn.event_shape[-1], reading.batch_of(site)
        return cls(site.name, (site.name,), batch, dim)

    @classmethod
    def easy_value(cls, event_shape):
        return np.eye(event_shape[-1])

    def random_values(self, rng):
        root = rng.standard_normal((*self.batch_shape, self.dim, self.dim))
        precision = root @ np.swapaxes(root, -1, -2) + self.dim * np.eye(self.dim)
        return {self.name: precision}

    def plain_values(self, column=0):
        """Covariances that count the members of the batch."""
        count = 1.0 + np.arange(self.components or 1).reshape(*self.batch_shape, 1, 1)
        return {self.name: np.eye(self.dim) / count}

    def unit_noise(self):
        shape = (*self.batch_shape, self.dim, self.dim)
        return {self.name: np.broadcast_to(np.eye(self.dim), shape)}

    # its prior and its posterior

    def natural(self, sites):
        return self.natural_of(sites[self.name].fn)

    def natural_of(self, fn):
        shape = (*self.batch_shape, self.dim)
        return RegressionNatural(
            jnp.broadcast_to(fn.rate_matrix, (*shape, self.dim)),
            jnp.zeros((*shape, 0)),
            jnp.zeros((*self.batch_shape, 0, 0)),
            jnp.broadcast_to(fn.concentration, self.batch_shape) + 0.0,
        )

    def posterior(self, natural):
        return dist.Wishart(natural.df, rate_matrix=natural.vv)

    def unpack(self, value):
        return {self.name: value}

    # what a Gaussian factor reads of it

    def covers(self, dim):
        return self.dim == dim

    def covariance(self, value, dim):
        return np.linalg.solve(value, np.broadcast_to(np.eye(dim), value.shape))

    def noise(self, moments, dim, entries=None):
        return ExpectedNoise(moments.covariance, moments.log_det)

    def start(self, prior, cov, count):
        if cov.ndim > 2 and not self.batch_shape:
            cov, count = jnp.sum(cov, 0), jnp.sum(count, 0)
        return RegressionNatural(prior.vv + cov, prior.vu, prior.uu, prior.df + count)
