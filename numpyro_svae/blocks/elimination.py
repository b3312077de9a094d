# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factorisations and solves of many small matrices, entries first and lanes last.

The layout is that of :mod:`numpyro_svae.blocks.linalg`.
"""

from collections.abc import Callable
from functools import partial

from jax import Array, custom_vjp, lax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from numpyro_svae.blocks.linalg import (
    MAX_LOOPED,
    batched,
    eye,
    log_diagonal,
    matmul,
    matvec,
    outer,
    sum_to,
    symmetrize,
    transpose,
)

__all__ = [
    "cholesky",
    "semidefinite_factor",
    "solve_lower",
    "solve_lower_transposed",
    "solve_posdef",
]


def _at(a: Array, k: Array, axis: int) -> Array:
    return lax.dynamic_index_in_dim(a, k, axis, keepdims=False)


def _is(k: Array, a: Array, axis: int) -> Array:
    """Where the index of ``a`` along an axis is ``k``, in a shape that broadcasts."""
    shape = [1] * a.ndim
    shape[axis] = a.shape[axis]
    return (jnp.arange(a.shape[axis]) == k).reshape(shape)


def _from(k: Array, a: Array) -> Array:
    """Where the first index of a vector of the matrices ``a`` is at least ``k``."""
    return (jnp.arange(a.shape[0]) >= k).reshape((-1,) + (1,) * (a.ndim - 2))


def _diagonal(a: Array) -> Array:
    return jnp.stack([a[i, i] for i in range(a.shape[0])])


def solve_posdef(a: Array, b: Array) -> tuple[Array, Array]:
    """``a^-1 b`` and ``log det a`` for positive definite ``a (D, D, *lanes)``.

    Gauss-Jordan elimination, which needs no pivoting here; ``b (D, J, *lanes)`` has the
    lanes of ``a``. Pivots are floored at the rounding error of their diagonal entry. It
    carries no derivative rule.
    """
    size = a.shape[0]
    if size > MAX_LOOPED:
        tril = _scaled_cholesky(a)
        half = solve_lower(tril, b)
        return solve_lower_transposed(tril, half), 2 * log_diagonal(tril)

    def eliminate(k, state):
        rows, log_det = state
        pivot = _floor(_at(_at(rows, k, 0), k, 0), _at(_at(a, k, 0), k, 0))
        row = _at(rows, k, 0) / pivot
        others = rows - _at(rows, k, 1)[:, None] * row
        return jnp.where(_is(k, rows, 0), row, others), log_det + jnp.log(pivot)

    state = jnp.concatenate([a, b], 1), jnp.zeros(a.shape[2:], a.dtype)
    rows, log_det = lax.fori_loop(0, size, eliminate, state)
    return rows[:, size:], log_det


def _floor(pivot: Array, diagonal: Array) -> Array:
    """Keep pivots above the rounding error of the diagonal they came from."""
    info = jnp.finfo(pivot.dtype)
    return jnp.maximum(pivot, jnp.maximum(info.eps * diagonal, info.tiny))


# Factorisations


def _factor(a: Array, usable: Callable[[Array, Array], Array]) -> Array:
    """Cholesky factor by columns.

    ``usable(pivot, diagonal)`` is the pivot to divide by; infinity drops its column.
    """
    size = a.shape[0]

    def eliminate(k, rest):
        column = jnp.where(_from(k, a), _at(rest, k, 1), 0.0)
        pivot = usable(_at(column, k, 0), _at(_at(a, k, 0), k, 0))
        others = rest - outer(column, column / pivot)
        return jnp.where(_is(k, rest, 1), (column * lax.rsqrt(pivot))[:, None], others)

    return lax.fori_loop(0, size, eliminate, a)


def _dropped(tolerance: float, pivot: Array, diagonal: Array) -> Array:
    """Drop pivots that are zero to rounding error."""
    kept = pivot > tolerance * jnp.finfo(pivot.dtype).eps * diagonal
    return jnp.where(kept, pivot, jnp.inf)


@custom_vjp
def cholesky(a: Array) -> Array:
    """The lower Cholesky factor of symmetric positive definite ``a (D, D, *lanes)``.

    Pivots are floored at the rounding error of their diagonal entry, so that a matrix
    that is positive definite only up to rounding has a finite factor.
    """
    return _cholesky(a)


def _cholesky(a: Array) -> Array:
    if a.shape[0] > MAX_LOOPED:
        return _scaled_cholesky(a)
    return _factor(a, _floor)


def _scaled_cholesky(a: Array) -> Array:
    """Library factor of ``a``, scaled to unit diagonal and lifted by rounding error."""
    info = jnp.finfo(a.dtype)
    diagonal = _diagonal(a)
    scale = jnp.sqrt(jnp.maximum(diagonal, info.tiny))
    unit = a / outer(scale, scale) + a.shape[0] * info.eps * eye(a)
    return batched(jnp.linalg.cholesky, unit) * scale[:, None]


def _cholesky_fwd(a):
    factor = _cholesky(a)
    return factor, factor


def _cholesky_bwd(factor, g):
    size = factor.shape[0]
    inner = matmul(transpose(factor), g)
    weight = jnp.tril(jnp.ones((size, size), g.dtype)) - 0.5 * jnp.eye(size)
    inner = inner * weight.reshape((size, size) + (1,) * (g.ndim - 2)).astype(g.dtype)
    half = solve_lower_transposed(factor, inner)
    return (symmetrize(solve_lower_transposed(factor, transpose(half))),)


cholesky.defvjp(_cholesky_fwd, _cholesky_bwd)


def semidefinite_factor(a: Array, b: Array) -> tuple[Array, Array]:
    """A factor of positive semi-definite ``a = u u'``, and ``w`` with ``u w = b``.

    ``a (D, D, *lanes)``, ``b (D, *lanes)``. Directions in which ``a`` is zero to
    rounding error have zero columns in ``u`` and zeros in ``w``. It carries
    no derivative rule: rules that need the factor differentiate ``a``.
    """
    size = a.shape[0]
    if size <= MAX_LOOPED:
        u = _factor(a, partial(_dropped, 4.0 * size))
        return u, solve_lower(u, b[:, None])[:, 0]
    values, vectors = jnp.linalg.eigh(jnp.moveaxis(a, (0, 1), (-2, -1)))
    floor = size * jnp.finfo(a.dtype).eps * jnp.max(values, -1, keepdims=True)
    roots = jnp.sqrt(jnp.where(values > floor, values, 0.0))
    u = jnp.moveaxis(vectors * roots[..., None, :], (-2, -1), (0, 1))
    vectors = jnp.moveaxis(vectors, (-2, -1), (0, 1))
    scale = _reciprocal(jnp.moveaxis(roots, -1, 0))
    return u, scale * matvec(transpose(vectors), b)


# Triangular solves


def _reciprocal(x: Array) -> Array:
    nonzero = x != 0
    return jnp.where(nonzero, 1.0 / jnp.where(nonzero, x, 1.0), 0.0)


def _substitute(factor: Array, b: Array, transposed: bool) -> Array:
    """Substitution, one column of the triangular matrix at a time."""
    size = factor.shape[0]
    lanes = jnp.broadcast_shapes(factor.shape[2:], b.shape[2:])
    columns = transpose(factor) if transposed else factor

    def substitute(i, rows):
        k = size - 1 - i if transposed else i
        column = _at(columns, k, 1)
        solved = _at(rows, k, 0) * _reciprocal(_at(column, k, 0))
        return jnp.where(_is(k, rows, 0), solved, rows - outer(column, solved))

    rows = jnp.broadcast_to(b, b.shape[:2] + lanes)
    return lax.fori_loop(0, size, substitute, rows)


@custom_vjp
def solve_lower(factor: Array, b: Array) -> Array:
    """Solve ``factor x = b`` for lower triangular ``factor (D, D, *lanes)``.

    ``b (D, J, *lanes)``. A zero on the diagonal gives a zero in the solution.
    """
    if factor.shape[0] > MAX_LOOPED:
        return batched(partial(solve_triangular, lower=True), factor, b)
    return _substitute(factor, b, transposed=False)


@custom_vjp
def solve_lower_transposed(factor: Array, b: Array) -> Array:
    """Solve ``factor' x = b`` for lower triangular ``factor (D, D, *lanes)``."""
    if factor.shape[0] > MAX_LOOPED:
        return batched(partial(solve_triangular, lower=True, trans=1), factor, b)
    return _substitute(factor, b, transposed=True)


def _tril(a: Array) -> Array:
    size = a.shape[0]
    keep = jnp.tril(jnp.ones((size, size), bool))
    return jnp.where(keep.reshape((size, size) + (1,) * (a.ndim - 2)), a, 0.0)


def _solve_lower_fwd(factor, b):
    x = solve_lower(factor, b)
    return x, (factor, x, b)


def _solve_lower_bwd(residuals, g):
    factor, x, b = residuals
    gb = solve_lower_transposed(factor, g)
    gf = -_tril(matmul(gb, transpose(x)))
    return sum_to(gf, factor.shape), sum_to(gb, b.shape)


def _solve_lower_transposed_fwd(factor, b):
    x = solve_lower_transposed(factor, b)
    return x, (factor, x, b)


def _solve_lower_transposed_bwd(residuals, g):
    factor, x, b = residuals
    gb = solve_lower(factor, g)
    gf = -_tril(matmul(x, transpose(gb)))
    return sum_to(gf, factor.shape), sum_to(gb, b.shape)


solve_lower.defvjp(_solve_lower_fwd, _solve_lower_bwd)
solve_lower_transposed.defvjp(_solve_lower_transposed_fwd, _solve_lower_transposed_bwd)
