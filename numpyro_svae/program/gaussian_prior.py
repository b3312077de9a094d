# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Global blocks of means and weights whose prior is independent of the noise."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.transforms import ParameterFreeTransform, ReshapeTransform

from numpyro_svae.families import GaussianNatural, expected
from numpyro_svae.program.noise_priors import PrecisionPrior
from numpyro_svae.program.priors import Prior
from numpyro_svae.program.sites import Site, unwrap

__all__ = ["ExpectedWeight", "GaussianPrior", "Scaling"]


class ExpectedWeight(NamedTuple):
    """Moments of a weight.

    :param mean: of shape ``(..., D, M)``.
    :param spread: covariance of each row, ``(..., D, M, M)``, if rows are independent;
        else of all entries, ``(..., D, M, D, M)``.
    """

    mean: Array
    spread: Array


class Scaling(NamedTuple):
    """The block that holds the precisions of the entries of a weight.

    :param block: the block.
    :param form: what has a precision of its own: ``"all"``, ``"rows"``,
        ``"columns"`` or ``"entries"``.
    """

    block: PrecisionPrior
    form: str

    def spread(self, value: Any) -> Any:
        """Values of the block's site, as they fall on the entries ``(..., D, M)``."""
        if self.form == "all":
            return value[..., None, None]
        if self.form == "rows":
            return value[..., :, None]
        return value[..., None, :] if self.form == "columns" else value


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
    :param scaling: the block that its scale depends on, if it does.
    """

    event_shape: tuple[int, ...]
    dim: int
    columns: int
    by_row: bool
    transposed: bool = False
    scaling: Scaling | None = None

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
        return self.natural_of(sites[self.name].outer)

    def natural_of(self, fn: dist.Distribution) -> GaussianNatural:
        """Natural parameters of a distribution of the site's shape."""
        base: Any = unwrap(fn)[0]
        dim, columns = self.dim, self.columns
        whole = self.batch_shape + self.event_shape
        loc = self.weight(jnp.broadcast_to(base.loc, whole))
        if isinstance(base, dist.Normal):
            entries = 1.0 / self.weight(jnp.broadcast_to(base.scale, whole)) ** 2
            return self._pack(loc, entries[..., None] * jnp.eye(columns))
        if isinstance(base, dist.MatrixNormal):
            row, column = map(_inverse, (base.scale_tril_row, base.scale_tril_column))
            row, column = (column, row) if self.transposed else (row, column)
            precision = jnp.einsum("...ij,...kl->...ikjl", row, column)
        elif self.transposed:  # the columns of F are independent
            own = _inverse(base.scale_tril)
            own = jnp.broadcast_to(own, (*self.batch_shape, columns, dim, dim))
            precision = jnp.einsum("...mij,mn->...imjn", own, jnp.eye(columns))
        else:
            precision = _inverse(base.scale_tril)
            if len(self.event_shape) == 2:
                return self._pack(loc, precision)
            if dim == 1:
                return self._pack(loc, precision[..., None, :, :])
        square = (*self.batch_shape, dim * columns, dim * columns)
        if len(self.event_shape) == 2:
            pairs = (*self.batch_shape, dim, columns, dim, columns)
            precision = jnp.broadcast_to(precision, pairs).reshape(square)
        precision = jnp.broadcast_to(precision, square)
        return GaussianNatural.from_mean(loc.reshape(*self.batch_shape, -1), precision)

    def _pack(self, loc: Array, rows: Array) -> GaussianNatural:
        """From the precision ``(..., D, M, M)`` of each row."""
        rows = jnp.broadcast_to(rows, (*loc.shape, self.columns))
        if self.by_row:
            return GaussianNatural.from_mean(loc, rows)
        size = self.dim * self.columns
        blocks = rows[..., :, :, None, :] * jnp.eye(self.dim)[:, None, :, None]
        precision = blocks.reshape(*self.batch_shape, size, size)
        return GaussianNatural.from_mean(loc.reshape(*self.batch_shape, -1), precision)

    def moments(self, natural: GaussianNatural) -> ExpectedWeight:
        mean, covariance = expected(natural)
        if self.by_row:
            return ExpectedWeight(mean, covariance)
        shape = (self.dim, self.columns)
        return ExpectedWeight(
            mean.reshape(*self.batch_shape, *shape),
            covariance.reshape(*self.batch_shape, *shape, *shape),
        )

    def expected_prior(
        self, plain: GaussianNatural, moments: dict[str, Any]
    ) -> tuple[GaussianNatural, Array | float]:
        """The prior at the expected precisions of the block that it is scaled by.

        :param plain: the prior at the plain values.
        :param moments: of all blocks.
        :return: natural parameters, and what the divergence from them lacks because
            ``E log precision`` is not the log of the expectation.
        """
        if self.scaling is None:
            return plain, 0.0
        block, form = self.scaling.block, self.scaling.spread
        shape = (*self.batch_shape, self.dim, self.columns)
        alpha = moments[block.name]
        mean = jnp.broadcast_to(form(-alpha.rate), shape)
        gap = jnp.log(mean) - form(alpha.concentration)
        ratio = mean / form(block.precisions(block.plain_values()[block.name]))
        ratio = ratio.reshape(plain.info_vector.shape)
        # the prior's precision is diagonal, so this scales its entries
        scaled = GaussianNatural(
            ratio * plain.info_vector, ratio[..., None] * plain.precision
        )
        return scaled, 0.5 * jnp.sum(gap, (-1, -2))

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
            shape = self.dim, self.columns
            found = _Moved(vector, ReshapeTransform(shape, (math.prod(shape),)))
        return _Moved(found, _Transpose()) if self.transposed else found

    def unpack(self, value: Array) -> dict[str, Array]:
        return {self.name: value}


class _Moved(dist.TransformedDistribution):
    """A Gaussian whose entries are put elsewhere, with its moments."""

    @property
    def mean(self) -> Array:
        return self.transforms[0](self.base_dist.mean)

    @property
    def variance(self) -> Array:
        return self.transforms[0](self.base_dist.variance)


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


def _inverse(tril: Array) -> Array:
    identity = jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape)
    return cho_solve((tril, True), identity)
