# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Normal-inverse-Wishart priors and their relatives with weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.distributions import (
    MatrixNormalInverseWishart,
    NormalInverseWishart,
)
from numpyro_svae.families import (
    ExpectedRegression,
    NaturalParameters,
    RegressionNatural,
)
from numpyro_svae.program.priors.joint_prior import JointPrior
from numpyro_svae.program.priors.priors import Reading
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.arrays import numpy_of
from numpyro_svae.program.run.classes import spelling_of, tril_of
from numpyro_svae.program.run.sites import Program, Site

__all__ = ["RegressionPrior"]


@dataclass(frozen=True)
class RegressionPrior(JointPrior):
    """A matrix-normal-inverse-Wishart prior, as one site or as two."""

    distributions = (
        NormalInverseWishart,
        MatrixNormalInverseWishart,
        dist.InverseWishart,
    )

    @classmethod
    def find(cls, reading: Reading, site: Site) -> RegressionPrior | None:
        if isinstance(site.fn, dist.InverseWishart):
            return cls._of_two(reading, site)
        dim, width = site.fn.event_shape
        vector = isinstance(site.fn, NormalInverseWishart)
        batch, names = reading.batch_of(site), (site.name,)
        return cls(site.name, names, batch, dim, width - dim, vector)

    @classmethod
    def _of_two(cls, reading: Reading, half: Site) -> RegressionPrior | None:
        """An inverse-Wishart site with the site whose rows have its covariance."""
        for site in reading.partners(half):
            spelling = spelling_of(site.fn)
            vector = spelling == "vector" and not site.extra
            if (
                not (vector or spelling == "matrix")
                or site.batch_shape != half.batch_shape
            ):
                continue
            if _is_scaled_by(reading.program, site.name, half):
                dim, columns = (*site.fn.event_shape, 1)[:2]
                names, batch = (half.name, site.name), reading.batch_of(site)
                return cls(site.name, names, batch, dim, columns, vector)
        return None

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        dim, width = event_shape
        return np.eye(dim, width, width - dim)

    @property
    def packed(self) -> bool:
        """Whether the block is one site with a packed event."""
        return len(self.sites) == 1

    def values(self, weight: Any, cov: Any) -> dict[str, Any]:
        if self.packed:
            return {self.name: numpy_of(cov).concatenate([weight, cov], -1)}
        cov_site, weight_site = self.sites
        return {cov_site: cov, weight_site: weight[..., 0] if self.vector else weight}

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = (*self.batch_shape, self.dim)
        weight = rng.standard_normal((*shape, self.columns))
        root = rng.standard_normal((*shape, self.dim))
        cov = root @ np.swapaxes(root, -1, -2) + self.dim * np.eye(self.dim)
        return self.values(weight, cov)

    def pair(self, values: dict[str, Any]) -> tuple[Any, Any]:
        if self.packed:
            value = values[self.name]
            return value[..., : self.columns], value[..., self.columns :]
        cov, weight = (values[name] for name in self.sites)
        return (weight[..., None] if self.vector else weight), cov

    def regression(
        self, moments: ExpectedRegression, entries: Array | None
    ) -> ExpectedRegression:
        return moments

    def whole(self, natural: Any) -> RegressionNatural:
        return natural

    def of_whole(self, start: RegressionNatural) -> Any:
        return start

    def natural(self, sites: dict[str, Site]) -> NaturalParameters:
        fn = sites[self.name].fn
        if self.packed:
            natural = fn.natural_parameters
        else:
            cov_fn = sites[self.sites[0]].fn
            scale_tril = cov_fn.base_dist.scale_tril
            loc, precision = self._conditional(fn)
            natural = RegressionNatural.from_standard(
                loc, precision, scale_tril, cov_fn.concentration
            )
        return _expand(natural, self.batch_shape)

    def _conditional(self, fn: dist.Distribution) -> tuple[Array, Array]:
        """Location and column precision of the weight's site."""
        if spelling_of(fn) == "matrix":
            tril = fn.scale_tril_column
            identity = jnp.broadcast_to(jnp.eye(self.columns), tril.shape)
            return fn.loc, cho_solve((tril, True), identity)
        count = 1.0 + jnp.arange(self.components or 1)
        count = jnp.reshape(count, self.batch_shape)
        concentration = count / fn.scale_tril[..., 0, 0] ** 2
        return fn.loc[..., None], concentration[..., None, None]

    def posterior(self, natural: RegressionNatural) -> dist.Distribution:
        family = NormalInverseWishart if self.vector else MatrixNormalInverseWishart
        return family.from_natural_parameters(natural)

    def unpack(self, value: Array) -> dict[str, Array]:
        return self.values(value[..., : self.columns], value[..., self.columns :])


def _expand(natural: RegressionNatural, shape: tuple[int, ...]) -> Any:
    def widen(leaf: Array, event_dim: int) -> Array:
        event = leaf.shape[leaf.ndim - event_dim :]
        return jnp.broadcast_to(leaf, shape + event)

    return RegressionNatural(
        widen(natural.vv, 2),
        widen(natural.vu, 2),
        widen(natural.uu, 2),
        widen(natural.df, 0),
    )


def _is_scaled_by(program: Program, name: str, half: Site) -> bool:
    """Whether the row covariance of a site is a multiple of an inverse-Wishart site."""
    root = np.random.default_rng(0).standard_normal(half.value.shape)
    cov = root @ np.swapaxes(root, -1, -2) + np.eye(root.shape[-1])
    fn: Any = program.sites({half.name: cov})[name].fn
    tril = tril_of(fn)
    found = np.asarray(tril @ jnp.swapaxes(tril, -1, -2))
    if spelling_of(fn) == "matrix":
        return same(found, cov)
    return same(found / found[..., :1, :1], cov / cov[..., :1, :1])
