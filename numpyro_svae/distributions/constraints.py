# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The support of the joint priors over a weight matrix and a covariance matrix."""

import math

import jax
from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import LowerCholeskyTransform, Transform
from numpyro.util import not_jax_tracer

from numpyro_svae.tracing import computed_now

__all__ = ["WeightCovarianceTransform", "pack", "symmetrize", "unpack", "weight_cov"]


def pack(weight: ArrayLike, cov: ArrayLike) -> Array:
    """Joins a weight and a covariance matrix into one event ``[weight | cov]``.

    :param weight: array of shape (..., D, M).
    :param cov: array of shape (..., D, D).
    :return: array of shape (..., D, M + D); batch shapes are broadcast.
    """
    weight, cov = jnp.asarray(weight), jnp.asarray(cov)
    batch_shape = jnp.broadcast_shapes(weight.shape[:-2], cov.shape[:-2])
    parts = [jnp.broadcast_to(x, batch_shape + x.shape[-2:]) for x in (weight, cov)]
    return jnp.concatenate(parts, axis=-1)


def unpack(value: Array) -> tuple[Array, Array]:
    """Splits an event ``[weight | cov]`` again.

    :param value: array of shape (..., D, M + D).
    :return: weight of shape (..., D, M) and covariance of shape (..., D, D).
    """
    num_columns = value.shape[-1] - value.shape[-2]
    return value[..., :num_columns], value[..., num_columns:]


def symmetrize(matrix: Array) -> Array:
    """The symmetric part of a matrix of shape (..., D, D)."""
    return 0.5 * (matrix + matrix.mT)


_RELTOL = 1e-5  # of what symmetric entries may differ by


@jax.jit
def _is_weight_cov(x: Array) -> Array:
    """Which of the matrices ``[weight | cov]`` are finite, with a covariance matrix."""
    weight, cov = unpack(x)
    std = jnp.sqrt(jnp.abs(jnp.diagonal(cov, axis1=-2, axis2=-1)))
    tolerance = _RELTOL * std[..., :, None] * std[..., None, :]
    symmetric = (jnp.abs(cov - cov.mT) <= tolerance).all((-2, -1))
    positive = jnp.isfinite(jnp.linalg.cholesky(cov)).all((-2, -1))
    return symmetric & positive & jnp.isfinite(weight).all((-2, -1))


class _WeightCov(constraints.ParameterFreeConstraint):
    """Matrices ``[weight | cov]`` of shape (..., D, M + D), ``cov`` positive definite.

    :param num_columns: M, the number of columns of the weight.
    """

    event_dim = 2

    def __init__(self, num_columns: int) -> None:
        self.num_columns = num_columns

    def __call__(self, x: ArrayLike) -> Array | np.ndarray:
        if jnp.ndim(x) < 2 or jnp.shape(x)[-1] != jnp.shape(x)[-2] + self.num_columns:
            raise ValueError(
                f"A value of shape (..., D, {self.num_columns} + D) is expected, "
                f"[weight | covariance]; got shape {jnp.shape(x)}."
            )
        with computed_now():
            valid = _is_weight_cov(jnp.asarray(x))
        # NumPy, where it can be, also under jit: NumPyro then warns there too.
        return np.asarray(valid) if not_jax_tracer(valid) else valid

    def feasible_like(self, prototype: ArrayLike) -> Array:
        shape = jnp.shape(prototype)
        dtype = jnp.result_type(float, jnp.asarray(prototype))
        zeros = jnp.zeros((shape[-2], self.num_columns), dtype)
        value = pack(zeros, jnp.eye(shape[-2], dtype=dtype))
        return jnp.broadcast_to(value, shape)

    def __repr__(self) -> str:
        return f"weight_cov(num_columns={self.num_columns})"

    def tree_flatten(self):
        return (), ((), {"num_columns": self.num_columns})

    def eq(self, other: object, static: bool = False) -> bool:
        return isinstance(other, _WeightCov) and self.num_columns == other.num_columns


weight_cov = _WeightCov


class WeightCovarianceTransform(Transform):
    """From real vectors to packed matrices ``[weight | cov]``.

    A vector holds the entries of the weight row by row, then the strict lower triangle
    and the log diagonal of the Cholesky factor of the covariance, as in
    :class:`~numpyro.distributions.transforms.LowerCholeskyTransform`. Its length is
    D M + D (D + 1) / 2.

    :param num_columns: M, the number of columns of the weight.
    """

    domain = constraints.real_vector

    def __init__(self, num_columns: int) -> None:
        self.num_columns = num_columns

    @property
    def codomain(self) -> constraints.Constraint:
        return weight_cov(self.num_columns)

    def __call__(self, x: Array) -> Array:
        weight, factor = self._split(x)
        tril = LowerCholeskyTransform()(factor)
        return pack(weight, symmetrize(tril @ tril.mT))

    def _inverse(self, y: Array) -> Array:
        weight, cov = unpack(y)
        factor = LowerCholeskyTransform().inv(jnp.linalg.cholesky(cov))
        weight = jnp.reshape(weight, weight.shape[:-2] + (-1,))
        return jnp.concatenate([weight, factor], axis=-1)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates=None) -> Array:
        r"""Of (weight, lower triangle of cov) with respect to the vector.

        With L the Cholesky factor, :math:`\log |J| = D \log 2 + \sum_{i=1}^D
        (D + 2 - i) \log L_{ii}`: the entries of L L' have the Jacobian
        :math:`2^D \prod_i L_{ii}^{D + 1 - i}` (Muirhead, Aspects of Multivariate
        Statistical Theory, theorem 2.1.9) and the diagonal of L is an exponential.
        """
        dim = self._dim(x.shape[-1])
        powers = jnp.arange(dim + 1, 1, -1)
        return dim * math.log(2.0) + (powers * x[..., -dim:]).sum(-1)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        dim = self._dim(shape[-1])
        return (*shape[:-1], dim, self.num_columns + dim)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        dim = shape[-2]
        return (*shape[:-2], dim * self.num_columns + dim * (dim + 1) // 2)

    def tree_flatten(self):
        return (), ((), {"num_columns": self.num_columns})

    def eq(self, other: object, static: bool = False) -> bool:
        if not isinstance(other, WeightCovarianceTransform):
            return False
        return self.num_columns == other.num_columns

    def _dim(self, length: int) -> int:
        """D, from the length D M + D (D + 1) / 2 of an unconstrained vector."""
        half = self.num_columns + 0.5
        dim = round(math.sqrt(half**2 + 2 * length) - half)
        if dim * self.num_columns + dim * (dim + 1) // 2 != length:
            raise ValueError(
                f"No D has D * {self.num_columns} + D * (D + 1) / 2 = {length}, the "
                "length of the unconstrained vector."
            )
        return dim

    def _split(self, x: Array) -> tuple[Array, Array]:
        dim = self._dim(x.shape[-1])
        size = dim * self.num_columns
        return jnp.reshape(x[..., :size], (*x.shape[:-1], dim, -1)), x[..., size:]


@biject_to.register(weight_cov)
def _biject_to_weight_cov(constraint: _WeightCov) -> WeightCovarianceTransform:
    return WeightCovarianceTransform(constraint.num_columns)
