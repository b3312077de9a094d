# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factorisations and solves of many small matrices, entries first and lanes last.

The layout is that of :mod:`numpyro_svae.blocks.linalg`.
"""

from collections.abc import Callable
from functools import partial, reduce
from math import prod

from jax import Array, custom_vjp, lax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from numpyro_svae.blocks.linalg import (
    MANY_LANES,
    MAX_UNROLLED,
    batched,
    eye,
    log_diagonal,
    matmul,
    outer,
    sum_to,
    symmetrize,
    transpose,
)

__all__ = [
    "cholesky",
    "cholesky_cotangent",
    "semidefinite_factor",
    "solve_lower",
    "solve_lower_transposed",
    "solve_posdef",
]


def _each(indices: range, step: Callable, carry: Array) -> Array:
    """The steps of an elimination, in turn: one body for few lanes.

    What a step takes to run is next to nothing there, and what it takes to compile is
    as much as for many lanes.
    """
    if prod(carry.shape[2:]) >= MANY_LANES:
        return reduce(lambda carry, k: step(k, carry), indices, carry)
    first, stride = indices.start, indices.step
    return lax.fori_loop(
        0, len(indices), lambda i, carry: step(first + stride * i, carry), carry
    )


def _at(k: int | Array, a: Array, axis: int = 0) -> Array:
    """Entry ``k`` along an axis."""
    return lax.dynamic_index_in_dim(a, k, axis, keepdims=False)


def _from(k: int | Array, a: Array) -> Array:
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
    if size > MAX_UNROLLED:
        tril = _scaled_cholesky(a)
        half = solve_lower(tril, b)
        return solve_lower_transposed(tril, half), 2 * log_diagonal(tril)

    rows, log_det = jnp.concatenate([a, b], 1), jnp.zeros(a.shape[2:], a.dtype)
    for k in range(size):  # column k of what is left of a is its first
        pivot = _floor(rows[k, 0], a[k, k])
        row = rows[k, 1:] / pivot
        others = rows[:, 1:] - outer(rows[:, 0], row)
        rows = lax.dynamic_update_index_in_dim(others, row, k, 0)
        log_det = log_det + jnp.log(pivot)
    return rows, log_det


def _floor(pivot: Array, diagonal: Array) -> Array:
    """Keep pivots above the rounding error of the diagonal they came from."""
    info = jnp.finfo(pivot.dtype)
    return jnp.maximum(pivot, jnp.maximum(info.eps * diagonal, info.tiny))


# Factorisations


def _factor(a: Array, usable: Callable[[Array, Array], Array]) -> Array:
    """Cholesky factor by columns, with one product for each ``MAX_UNROLLED`` of them.

    ``usable(pivot, diagonal)`` is the pivot to divide by; infinity drops its column.
    """
    size = a.shape[0]
    if not size:
        return a
    diagonal = _diagonal(a)
    panels, rest = [], a
    for first in range(0, size, MAX_UNROLLED):
        last = min(first + MAX_UNROLLED, size)

        def step(k: int | Array, panel: Array, first: int = first) -> Array:
            column = jnp.where(_from(k, a), _at(k - first, panel, 1), 0.0)
            pivot = usable(_at(k, column), _at(k, diagonal))
            own = column[first : first + panel.shape[1]] / pivot
            root = column * lax.rsqrt(pivot)
            others = panel - outer(column, own)
            return lax.dynamic_update_index_in_dim(others, root, k - first, 1)

        panel = _each(range(first, last), step, rest[:, : last - first])
        panels.append(panel)
        if last < size:
            rest = rest[:, last - first :] - matmul(panel, transpose(panel[last:]))
    return jnp.concatenate(panels, 1)


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
    if a.shape[0] > MAX_UNROLLED:
        return _scaled_cholesky(a)
    return _factor(a, _floor)


def _scaled_cholesky(a: Array) -> Array:
    """Library factor of ``a``, scaled to unit diagonal and lifted by rounding error.

    The error of a factor is proportional to the norm of the matrix, which is that of
    the largest sum in a row at most. A quarter of it was enough for every singular
    matrix that we tried, of up to 128 rows; as many times the rounding of one as there
    are rows is far too much for most matrices.
    """
    info = jnp.finfo(a.dtype)
    diagonal = _diagonal(a)
    scale = jnp.sqrt(jnp.maximum(diagonal, info.tiny))
    unit = a * outer(1 / scale, 1 / scale)
    lift = info.eps * jnp.max(jnp.sum(jnp.abs(unit), 0), 0)
    factor = partial(jnp.linalg.cholesky, symmetrize_input=False)
    return batched(factor, unit + lift * eye(a)) * scale[:, None]


def _cholesky_fwd(a):
    factor = _cholesky(a)
    return factor, factor


def cholesky_cotangent(factor: Array, g: Array) -> Array:
    """Of a matrix, where ``g`` is that of its Cholesky factor (Murray, 2016)."""
    size = factor.shape[0]
    inner = matmul(transpose(factor), g)
    weight = jnp.tril(jnp.ones((size, size), g.dtype)) - 0.5 * jnp.eye(size)
    inner = inner * weight.reshape((size, size) + (1,) * (g.ndim - 2)).astype(g.dtype)
    inverse = solve_lower(factor, jnp.broadcast_to(eye(factor), factor.shape))
    return symmetrize(matmul(matmul(transpose(inverse), inner), inverse))


cholesky.defvjp(_cholesky_fwd, lambda factor, g: (cholesky_cotangent(factor, g),))


def semidefinite_factor(a: Array, b: Array) -> tuple[Array, Array]:
    """A factor of positive semi-definite ``a = u u'``, and ``w`` with ``u w = b``.

    ``a (D, D, *lanes)``, ``b (D, *lanes)``. Directions in which ``a`` is zero to
    rounding error have zero columns in ``u`` and zeros in ``w``. It carries
    no derivative rule: rules that need the factor differentiate ``a``.
    """
    u = _factor(a, partial(_dropped, 4.0 * a.shape[0]))
    return u, solve_lower(u, b[:, None])[:, 0]


# Triangular solves


def _reciprocal(x: Array) -> Array:
    nonzero = x != 0
    return jnp.where(nonzero, 1.0 / jnp.where(nonzero, x, 1.0), 0.0)


def _substitute(factor: Array, b: Array, transposed: bool) -> Array:
    """Substitution, one column of the triangular matrix at a time."""
    size = factor.shape[0]
    lanes = jnp.broadcast_shapes(factor.shape[2:], b.shape[2:])
    columns = transpose(factor) if transposed else factor
    rows = jnp.broadcast_to(b, b.shape[:2] + lanes)
    rows = rows.astype(jnp.result_type(factor, b))
    if not size:
        return rows

    def step(k: int | Array, rows: Array) -> Array:
        column = _at(k, columns, 1)
        solved = _at(k, rows) * _reciprocal(_at(k, column))
        others = rows - outer(column, solved)
        return lax.dynamic_update_index_in_dim(others, solved, k, 0)

    order = range(size)
    return _each(order[::-1] if transposed else order, step, rows)


def _library_solve(factor: Array, b: Array, transposed: bool) -> Array:
    solve = partial(solve_triangular, lower=True, trans=int(transposed))
    singular = (_diagonal(factor) == 0)[:, None]
    rows = batched(solve, jnp.where(singular, eye(factor), factor), b)
    return jnp.where(singular, 0.0, rows)


@custom_vjp
def solve_lower(factor: Array, b: Array) -> Array:
    """Solve ``factor x = b`` for lower triangular ``factor (D, D, *lanes)``.

    ``b (D, J, *lanes)``. A zero on the diagonal gives a zero in the solution.
    """
    if factor.shape[0] > MAX_UNROLLED:
        return _library_solve(factor, b, transposed=False)
    return _substitute(factor, b, transposed=False)


@custom_vjp
def solve_lower_transposed(factor: Array, b: Array) -> Array:
    """Solve ``factor' x = b`` for lower triangular ``factor (D, D, *lanes)``."""
    if factor.shape[0] > MAX_UNROLLED:
        return _library_solve(factor, b, transposed=True)
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
