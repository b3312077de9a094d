# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The linear algebra of factors, on arrays ``(..., D)`` and ``(..., D, D)``."""

import math

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

__all__ = [
    "half_inner",
    "log_integral",
    "log_sum_exp",
    "matvec",
    "minus_inner",
    "minus_inner_vector",
    "solve",
    "solve_transposed",
    "solve_vector",
]


def solve(tril: Array, right: Array) -> Array:
    """``L^-1 B`` for a matrix ``B``."""
    return solve_triangular(tril, right, lower=True)


def solve_vector(tril: Array, right: Array) -> Array:
    """``L^-1 b`` for a vector ``b``."""
    return solve(tril, right[..., None])[..., 0]


def solve_transposed(tril: Array, right: Array) -> Array:
    """``L^-T b`` for a vector ``b``."""
    right = right[..., None]
    return solve_triangular(tril, right, lower=True, trans=1)[..., 0]


def matvec(a: Array, x: Array) -> Array:
    """``A x``."""
    return jnp.matmul(a, x[..., None])[..., 0]


def minus_inner(a: Array, b: Array) -> Array:
    """``-A' B``."""
    return -jnp.matmul(jnp.swapaxes(a, -1, -2), b)


def minus_inner_vector(a: Array, x: Array) -> Array:
    """``-A' x``."""
    return minus_inner(a, x[..., None])[..., 0]


def half_inner(x: Array, y: Array) -> Array:
    """``x' y / 2``."""
    return 0.5 * jnp.sum(x * y, -1)


def log_integral(tril: Array, white: Array) -> Array:
    """``w' w / 2 - log det L + D log(2 pi) / 2``."""
    log_det = jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
    constant = 0.5 * white.shape[-1] * math.log(2 * math.pi)
    return 0.5 * jnp.sum(white**2, -1) - log_det + constant


def log_sum_exp(x: Array) -> Array:
    """Over the last axis; rows of ``-inf`` give ``-inf`` and a zero gradient."""
    top = jax.lax.stop_gradient(jnp.max(x, -1))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(x - top[..., None]), -1)
    possible = total > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, total, 1.0)) + top, -jnp.inf)
