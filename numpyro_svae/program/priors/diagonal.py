# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks with a variance of its own for each dimension: Normal-Gamma priors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.distributions import MatrixNormalInverseWishart
from numpyro_svae.families import ExpectedRegression, RegressionNatural
from numpyro_svae.program.priors.joint_prior import JointPrior
from numpyro_svae.program.priors.priors import Reading
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.arrays import numpy_of
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.sites import Program, Site

__all__ = ["DiagonalPrior"]


@dataclass(frozen=True)
class DiagonalPrior(JointPrior):
    """A prior over a weight and variances: a regression of each dimension by itself.

    Its natural parameters are those of matrix-normal-inverse-Wisharts of dimension one,
    with batch ``(*batch, D)``.

    :param precision: whether the site of the scale holds precisions, not variances.
    """

    precision: bool

    distributions = (dist.Gamma, dist.InverseGamma)

    @classmethod
    def find(cls, reading: Reading, site: Site) -> DiagonalPrior | None:
        half, precision = site, isinstance(site.fn, dist.Gamma)
        rows = half.outer.event_shape
        for site in reading.partners(half):
            event = site.outer.event_shape
            if spelling_of(site.fn) != "numbers" or not rows or event[:1] != rows:
                continue
            if site.batch_shape != half.batch_shape or len(event) > 2:
                continue
            if _is_scaled_by(reading.program, site.name, half, precision):
                dim, columns = (*event, 1)[:2]
                names, batch = (half.name, site.name), site.batch_shape
                sizes = dim, columns, len(event) == 1
                return cls(site.name, names, batch, *sizes, precision)
        return None

    @classmethod
    def easy_value(cls, event_shape: tuple[int, ...]) -> np.ndarray:
        return np.full(event_shape, 0.5)

    def values(self, weight: Any, cov: Any) -> dict[str, Any]:
        variance = numpy_of(cov).diagonal(cov, axis1=-2, axis2=-1)
        return self._of_variance(weight, variance)

    def _of_variance(self, weight: Any, variance: Any) -> dict[str, Any]:
        scale_site, weight_site = self.sites
        return {
            scale_site: 1 / variance if self.precision else variance,
            weight_site: weight[..., 0] if self.vector else weight,
        }

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = (*self.batch_shape, self.dim)
        weight = rng.standard_normal((*shape, self.columns))
        return self._of_variance(weight, rng.uniform(0.5, 3.0, shape))

    def pair(self, values: dict[str, Any]) -> tuple[Any, Any]:
        scale, weight = (values[name] for name in self.sites)
        variance = 1 / scale if self.precision else scale
        cov = variance[..., None] * np.eye(self.dim)
        return (weight[..., None] if self.vector else weight), cov

    def natural(self, sites: dict[str, Site]) -> RegressionNatural:
        scale_fn, fn = (sites[name].fn for name in self.sites)
        rows = (*self.batch_shape, self.dim)
        columns = (*rows, self.columns)
        event = rows if self.vector else columns
        loc, spread = (
            jnp.broadcast_to(p, event).reshape(columns) for p in (fn.loc, fn.scale)
        )
        variance = jnp.diagonal(self.basis_pair(0)[1], axis1=-2, axis2=-1)
        relative = jnp.asarray(variance)[..., None] / spread**2
        shape, rate = (
            jnp.broadcast_to(p, rows) + 0.0
            for p in (scale_fn.concentration, scale_fn.rate)
        )
        return RegressionNatural.from_standard(
            loc[..., None, :],
            relative[..., None] * jnp.eye(self.columns),
            jnp.sqrt(2 * rate)[..., None, None],
            2 * shape,
        )

    def regression(
        self, moments: ExpectedRegression, entries: Array | None
    ) -> ExpectedRegression:
        return moments.together(entries)

    def posterior(self, natural: RegressionNatural) -> dist.Distribution:
        rows = MatrixNormalInverseWishart.from_natural_parameters(natural)
        return rows.to_event(1)

    def unpack(self, value: Array) -> dict[str, Array]:
        return self._of_variance(value[..., 0, : self.columns], value[..., 0, -1])

    def log_stretch(self, values: dict[str, Array]) -> Array | float:
        scale = values[self.sites[0]]  # the variance of a precision p is 1 / p
        return -2 * jnp.sum(jnp.log(scale), -1) if self.precision else 0.0

    def whole(self, natural: RegressionNatural) -> RegressionNatural:
        standard = natural.to_standard()
        scale = standard.scale_tril[..., 0] * jnp.eye(self.dim)
        return RegressionNatural.from_standard(
            standard.loc[..., 0, :],
            jnp.mean(natural.uu, -3),
            scale,
            jnp.mean(natural.df, -1) + self.dim - 1.0,
        )

    def of_whole(self, start: RegressionNatural) -> RegressionNatural:
        shape = (*start.vu.shape[:-1], self.columns, self.columns)
        return RegressionNatural(
            jnp.diagonal(start.vv, axis1=-2, axis2=-1)[..., None, None],
            start.vu[..., None, :],
            jnp.broadcast_to(start.uu[..., None, :, :], shape),
            jnp.broadcast_to(start.df[..., None] - self.dim + 1.0, shape[:-2]),
        )


def _is_scaled_by(program: Program, name: str, half: Site, precision: bool) -> bool:
    """Whether the variance of a Normal site is a multiple of a site's, row by row."""
    rng, found = np.random.default_rng(0), []
    for _ in range(2):
        value = rng.uniform(0.5, 3.0, half.value.shape)
        fn = program.sites({half.name: value})[name].fn
        shape = np.broadcast_shapes(np.shape(fn.scale), np.shape(fn.loc))
        square = np.broadcast_to(np.asarray(fn.scale) ** 2, shape)
        value = value.reshape(value.shape + (1,) * (square.ndim - value.ndim))
        ratio = square * value if precision else square / value
        found.append((ratio, np.broadcast_to(fn.loc, shape)))
    (first, loc), (second, other) = found
    return same(first, second) and same(loc, other)
