# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Matrices that the families share: Cholesky factors, and steps to a boundary."""

from __future__ import annotations

from math import isfinite

from jax import Array, lax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
import numpy as np

__all__ = [
    "cho_solve",
    "cholesky",
    "has_cholesky",
    "inverse_from_tril",
    "log_diagonal",
    "matvec",
    "solve_tril",
    "step_to_singular",
    "step_to_zero",
    "symmetric",
    "transpose",
]

# Units in the last place that the least eigenvalue has beside a diagonal of one, as in
# priors and starts that are refused; and how much of it a step keeps where it has less.
_LEAST = 4
_KEPT = 0.99


def transpose(x: Array) -> Array:
    """The last two axes swapped."""
    return jnp.swapaxes(x, -1, -2)


def matvec(matrix: Array, x: Array) -> Array:
    """Matrices ``(..., N, M)`` times vectors ``(..., M)``."""
    return jnp.squeeze(matrix @ x[..., None], -1)


def symmetric(x: Array) -> Array:
    """The symmetric part."""
    return 0.5 * (x + transpose(x))


def log_diagonal(tril: Array) -> Array:
    """Half of the log determinant of ``tril @ tril.T``."""
    return jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)


def cholesky(matrix: Array) -> Array:
    """The Cholesky factor, NaN where a matrix is not positive definite.

    A matrix of one entry is a number, as the column precision of a mean. Its root is a
    part of the kernels around it, where each call of a library waits for others.
    """
    if matrix.shape[-1] != 1:
        return jnp.linalg.cholesky(matrix)
    return jnp.sqrt(jnp.where(matrix > 0, matrix, jnp.nan))


def solve_tril(tril: Array, right: Array, trans: bool = False) -> Array:
    """``L^-1 B``, or ``L^-T B``.

    :param tril: lower triangular, ``(..., D, D)``.
    :param right: of shape ``(..., D, N)``.
    :param trans: whether to solve with the transpose.
    """
    if tril.shape[-1] == 1:
        return right / tril
    return solve_triangular(tril, right, lower=True, trans=int(trans))


def cho_solve(tril: Array, right: Array) -> Array:
    """``(L L')^-1 B``, of a Cholesky factor."""
    return solve_tril(tril, solve_tril(tril, right), trans=True)


def inverse_from_tril(tril: Array) -> Array:
    """The inverse of ``tril @ tril.T``."""
    identity = jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape)
    return symmetric(cho_solve(tril, identity))


def has_cholesky(matrix: Array | np.ndarray) -> bool:
    """Whether all matrices of a batch are positive definite, as NumPy finds them.

    :param matrix: known, ``(..., D, D)``. Nothing is compiled to look at it.
    """
    try:
        return bool(np.all(np.isfinite(np.linalg.cholesky(np.asarray(matrix)))))
    except np.linalg.LinAlgError:
        return False


def step_to_singular(matrix: Array, direction: Array, enough: float) -> Array:
    """Where ``matrix + s * direction`` is no longer positive definite.

    It ends where the floating-point type has no digits left, of matrices whose diagonal
    is one: that is at zero for a matrix that is there. One that had fewer of them from
    the start may hardly lose more.

    :param matrix: positive definite, ``(..., D, D)``.
    :param direction: symmetric, ``(..., D, D)``.
    :param enough: where all of the batch are positive definite as far as this, so much
        is returned: that takes one Cholesky factorisation, and no eigenvalues.
    """
    least = float(_LEAST * jnp.finfo(matrix.dtype).eps)

    def exact() -> Array:
        size = jnp.sqrt(jnp.diagonal(matrix, axis1=-2, axis2=-1))
        scaled = matrix / (size[..., :, None] * size[..., None, :])
        own = jnp.linalg.eigvalsh(scaled)[..., 0]
        margin = jnp.where(own > least, least, _KEPT * own)[..., None, None]
        tril = cholesky(_without(matrix, margin))
        half = solve_tril(tril, _without(direction, margin))
        whitened = solve_tril(tril, transpose(half))
        lowest = jnp.linalg.eigvalsh(symmetric(whitened))[..., 0]
        at_the_end = ~jnp.isfinite(tril[..., -1, -1])
        return jnp.where(at_the_end, 0.0, step_to_zero(1.0, lowest))

    if not isfinite(enough):
        return exact()
    far = _without(matrix + enough * direction, least)
    inside = jnp.all(jnp.isfinite(cholesky(far)))
    reach = jnp.full(matrix.shape[:-2], enough, matrix.dtype)
    return lax.cond(inside, lambda: reach, exact)


def _without(matrix: Array, part: Array | float) -> Array:
    """A matrix less a part of its diagonal."""
    return matrix * (1.0 - part * jnp.eye(matrix.shape[-1], dtype=matrix.dtype))


def step_to_zero(value: Array | float, slope: Array) -> Array:
    """Where ``value + s * slope`` reaches zero; infinite if it never does."""
    falls = slope < 0
    return jnp.where(falls, value / jnp.where(falls, -slope, 1.0), jnp.inf)
