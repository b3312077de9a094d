# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Quadratic functions of few entries within bounds."""

from __future__ import annotations

from jax import Array, lax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

__all__ = ["bounded_rule", "box_minimum"]


def bounded_rule(
    curvature: Array, coupling: Array, slope: Array, box: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The best change of an action within bounds; entries at a bound do not react."""
    offset, free = box_minimum(curvature, slope, *box)
    tril = jnp.linalg.cholesky(_only(curvature, free))
    return -cho_solve((tril, True), jnp.where(free[:, None], coupling, 0.0)), offset


def box_minimum(
    matrix: Array, slope: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """The minimum of ``a' H a / 2 + g' a`` within bounds, and which entries are free.

    Sweeps over the entries find those that are at a bound; the others solve for zero
    slope.

    :param matrix: positive definite H, ``(A, A)``.
    :param slope: g, ``(A,)``.
    :param low: lower bounds, ``(A,)``.
    :param high: upper bounds, ``(A,)``.
    """

    def sweep(_: int, a: Array) -> Array:
        for i in range(len(slope)):
            new = a[i] - (slope[i] + matrix[i] @ a) / matrix[i, i]
            a = a.at[i].set(jnp.clip(new, low[i], high[i]))
        return a

    num_sweeps = 1 + 10 * (len(slope) - 1)  # one entry needs one
    start = jnp.clip(jnp.zeros_like(slope), low, high)
    a = lax.fori_loop(0, num_sweeps, sweep, start)
    push = slope + matrix @ a
    free = ~(((a <= low) & (push > 0)) | ((a >= high) & (push < 0)))
    tril = jnp.linalg.cholesky(_only(matrix, free))
    a = a - cho_solve((tril, True), jnp.where(free, push, 0.0))
    return jnp.clip(a, low, high), free


def _only(matrix: Array, free: Array) -> Array:
    """A matrix in which entries that are not free are by themselves."""
    own = jnp.eye(len(matrix), dtype=matrix.dtype)
    return jnp.where(free[:, None] & free, matrix, own)
