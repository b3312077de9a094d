# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Matrices that the families share: Cholesky factors, and steps to a boundary."""

from __future__ import annotations

from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

__all__ = [
    "inverse_from_tril",
    "log_diagonal",
    "step_to_zero",
    "symmetric",
    "transpose",
    "whitened_slope",
]


def transpose(x: Array) -> Array:
    """The last two axes swapped."""
    return jnp.swapaxes(x, -1, -2)


def symmetric(x: Array) -> Array:
    """The symmetric part."""
    return 0.5 * (x + transpose(x))


def log_diagonal(tril: Array) -> Array:
    """Half of the log determinant of ``tril @ tril.T``."""
    return jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)


def inverse_from_tril(tril: Array) -> Array:
    """The inverse of ``tril @ tril.T``."""
    identity = jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape)
    return symmetric(cho_solve((tril, True), identity))


def whitened_slope(matrix: Array, direction: Array) -> Array:
    """The lowest eigenvalue of a direction in units of a positive definite matrix.

    ``matrix + s * direction`` is positive definite while ``1 + s * slope > 0``.
    """
    tril = jnp.linalg.cholesky(matrix)
    half = solve_triangular(tril, direction, lower=True)
    whitened = solve_triangular(tril, transpose(half), lower=True)
    return jnp.linalg.eigvalsh(symmetric(whitened))[..., 0]


def step_to_zero(value: Array | float, slope: Array) -> Array:
    """Where ``value + s * slope`` reaches zero; infinite if it never does."""
    falls = slope < 0
    return jnp.where(falls, value / jnp.where(falls, -slope, 1.0), jnp.inf)
