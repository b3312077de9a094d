# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of means and weights whose prior is independent of the noise."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.transforms import ParameterFreeTransform, ReshapeTransform

from numpyro_svae.families import GaussianNatural, expected
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.run.moved_gaussians import Moved
from numpyro_svae.program.run.normals import normal_rows
from numpyro_svae.program.run.sites import Site, unwrap

__all__ = ["ExpectedWeight", "GaussianPrior", "rows_and_columns"]

_POPULATION = (
    "a location that is affine in other global Gaussian sites, and a covariance that "
    "is known or that of one other site, times known numbers: an InverseWishart, the "
    "scale 1 / sqrt(alpha) of one Gamma site alpha for all entries or some, or sqrt of "
    "an InverseGamma site; or a location and a covariance of one joint prior. Data may "
    "pick from batches, as in top[region]. Write numpyro.sample('mu', "
    "dist.MultivariateNormal(top, S)) or dist.Normal(top, 1 / jnp.sqrt(alpha))"
)


class ExpectedWeight(NamedTuple):
    """Moments of a weight.

    :param mean: of shape ``(..., D, M)``.
    :param spread: covariance of each row, ``(..., D, M, M)``, if rows are independent;
        else of all entries, ``(..., D, M, D, M)``.
    """

    mean: Array
    spread: Array


@dataclass(frozen=True)
class GaussianPrior(Prior):
    """A Gaussian prior over a mean or over weights.

    The value is read as a weight F of D rows and M columns: a number is 1 x 1, a mean
    D x 1, the weights of a single response 1 x M, and a matrix is F or its transpose.

    :param event_shape: of the site.
    :param dim: D, the number of rows.
    :param columns: M, the number of regressors.
    :param by_row: whether rows are independent, under the prior and under the noise.
    :param transposed: whether the site is the transpose of F.
    """

    event_shape: tuple[int, ...]
    dim: int
    columns: int
    by_row: bool
    transposed: bool = False

    part = "weight"
    distributions = (dist.Normal, dist.MultivariateNormal, dist.MatrixNormal)
    accepted = f"{Prior.accepted}; or {_POPULATION}"

    def weight(self, value: Any) -> Any:
        """The weight ``(..., D, M)`` that a value of the site is."""
        if self.transposed:
            return value.swapaxes(-1, -2)
        batch = value.shape[: value.ndim - len(self.event_shape)]
        return value.reshape(*batch, self.dim, self.columns)

    def values(self, weight: Any) -> dict[str, Any]:
        """The value of the site, from a weight."""
        if self.transposed:
            return {self.name: weight.swapaxes(-1, -2)}
        return {self.name: weight.reshape(*weight.shape[:-2], *self.event_shape)}

    def random_values(self, rng: np.random.Generator) -> dict[str, Any]:
        shape = self.batch_shape + self.event_shape
        return {self.name: rng.standard_normal(shape)}

    def plain_values(self, column: Any = 0, size: Any = 1.0) -> dict[str, Any]:
        """A weight that copies a regressor to entry 0.

        :param column: the regressor.
        :param size: what to multiply it by, for each member of the batch.
        """
        row, own = np.eye(self.dim, 1), column == jnp.arange(self.columns)
        scale = np.reshape(size, (*np.shape(size), 1, 1))
        shape = (*self.batch_shape, self.dim, self.columns)
        return self.values(jnp.broadcast_to(scale * row * own, shape))

    def natural(self, sites: dict[str, Site]) -> GaussianNatural:
        return self.natural_of(sites[self.name].fn)

    def natural_of(self, fn: dist.Distribution) -> GaussianNatural:
        if isinstance(fn, Moved):  # a posterior, which keeps the order of parameters
            vector = unwrap(fn.base_dist)[0]
            return GaussianNatural.from_mean(vector.loc, vector.precision_matrix)
        rows = normal_rows(unwrap(fn)[0], self.event_shape)
        return GaussianNatural.from_mean(*self.centred(rows.loc, rows.precision))

    def centred(self, loc: Array, precision: Array) -> tuple[Array, Array]:
        """Mean and precision as the natural parameters have them.

        :param loc: of the value of the site as rows, ``(..., R, L)``; see
            :class:`~numpyro_svae.program.run.normals.NormalRows`.
        :param precision: of each row, ``(..., R, L, L)``, or entry, ``(..., R, L, 1)``.
        """
        batch, sizes = self.batch_shape, loc.shape[-2:]
        entries = (*batch, *self.event_shape)
        shape = (*batch, *sizes)
        mean = self.weight(jnp.broadcast_to(loc, shape).reshape(entries))
        if precision.shape[-1] == 1:
            each = jnp.broadcast_to(precision[..., 0], shape).reshape(entries)
            rows = self.weight(each)[..., None] * jnp.eye(self.columns)
            return self._packed(mean, rows)
        precision = jnp.broadcast_to(precision, (*shape, sizes[-1]))
        if sizes == (self.dim, self.columns) and not self.transposed:
            return self._packed(mean, precision)
        whole = _block_diagonal(precision)
        if self.transposed:
            swapped = (*batch, *2 * (self.columns, self.dim))
            rank = len(batch)
            order = (*range(rank), *(rank + i for i in (1, 0, 3, 2)))
            whole = jnp.transpose(whole.reshape(swapped), order)
        size = self.dim * self.columns
        whole = whole.reshape(*batch, size, size)
        if self.by_row:
            pairs = whole.reshape(*batch, *2 * (self.dim, self.columns))
            rows = jnp.diagonal(pairs, axis1=-4, axis2=-2)
            return mean, jnp.moveaxis(rows, -1, -3)
        return mean.reshape(*batch, -1), whole

    def _packed(self, mean: Array, rows: Array) -> tuple[Array, Array]:
        """From the precision ``(..., D, M, M)`` of each row of the weight."""
        if self.by_row:
            return mean, rows
        return mean.reshape(*self.batch_shape, -1), _block_diagonal(rows)

    def fault(self, natural: GaussianNatural) -> str | None:
        if natural.in_domain():
            return None
        return (
            f"Site '{self.name}': its location is not finite, or its covariance is not "
            "positive definite. Accepted: finite locations, and positive and finite "
            "scales or a positive definite covariance."
        )

    def moments(self, natural: GaussianNatural) -> ExpectedWeight:
        mean, covariance = expected(natural)
        if self.by_row:
            return ExpectedWeight(mean, covariance)
        shape = (self.dim, self.columns)
        return ExpectedWeight(
            mean.reshape(*self.batch_shape, *shape),
            covariance.reshape(*self.batch_shape, *shape, *shape),
        )

    def posterior(self, natural: GaussianNatural) -> dist.Distribution:
        mean, _ = natural.moments()
        if self.by_row and self.columns == 1:
            scale = 1.0 / jnp.sqrt(natural.precision[..., 0])
            shape = self.batch_shape + self.event_shape
            entries = dist.Normal(mean.reshape(shape), scale.reshape(shape))
            return entries.to_event(len(self.event_shape))
        precision = natural.precision
        if self.by_row and len(self.event_shape) == 1:
            mean, precision = mean[..., 0, :], precision[..., 0, :, :]
        vector = dist.MultivariateNormal(mean, precision_matrix=precision)
        if len(self.event_shape) == 1:
            return vector
        found: dist.Distribution
        if self.by_row:
            found = vector.to_event(1)
        else:
            size = self.dim * self.columns
            whole = (self.dim, self.columns) if self.transposed else self.event_shape
            found = Moved(vector, ReshapeTransform(whole, (size,)))
        return Moved(found, _Transpose()) if self.transposed else found

    def unpack(self, value: Array) -> dict[str, Array]:
        return {self.name: value}


class _Transpose(ParameterFreeTransform):
    """The transpose of a matrix."""

    domain = dist.constraints.independent(dist.constraints.real, 2)
    codomain = dist.constraints.independent(dist.constraints.real, 2)

    def __call__(self, x: Array) -> Array:
        return jnp.swapaxes(x, -1, -2)

    def _inverse(self, y: Array) -> Array:
        return jnp.swapaxes(y, -1, -2)

    def log_abs_det_jacobian(
        self, x: Array, y: Array, intermediates: Any = None
    ) -> Array:
        return jnp.zeros_like(x, shape=x.shape[:-2])

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1], shape[-2])

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.forward_shape(shape)


def rows_and_columns(
    event: tuple[int, ...], dims: frozenset[int]
) -> tuple[int, int] | None:
    """D and M of a site, from the dimensions of the responses."""
    if not event and dims <= {1}:
        return 1, 1
    if len(event) == 1 and dims <= {event[0]}:
        return event[0], 1
    if len(event) == 1 and dims <= {1}:
        return 1, event[0]
    if len(event) == 2 and dims <= {event[0]}:
        return event[0], event[1]
    if len(event) > 2 and not dims:
        return math.prod(event[:-1]), event[-1]
    return None


def _block_diagonal(blocks: Array) -> Array:
    """The matrix ``(..., R L, R L)`` with blocks ``(..., R, L, L)``."""
    count, size = blocks.shape[-3:-1]
    apart = blocks[..., :, :, None, :] * jnp.eye(count)[:, None, :, None]
    return apart.reshape(*blocks.shape[:-3], count * size, count * size)
