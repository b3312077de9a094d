# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Triangular solves with broadcasting, and the Bartlett decomposition."""

from __future__ import annotations

import math

import jax
from jax import Array, random
import jax.numpy as jnp

__all__ = ["bartlett_tril", "solve_tril"]


def solve_tril(tril: Array, matrix: Array, *, transpose: bool = False) -> Array:
    """Solve L X = B, or L' X = B, for lower triangular L, with broadcasting.

    :param tril: L, of shape (..., D, D).
    :param matrix: B, of shape (..., D, M).
    :param transpose: whether to solve with L'.
    :return: X, of shape (..., D, M).
    """
    batch_shape = jnp.broadcast_shapes(tril.shape[:-2], matrix.shape[:-2])
    return jax.lax.linalg.triangular_solve(
        jnp.broadcast_to(tril, batch_shape + tril.shape[-2:]),
        jnp.broadcast_to(matrix, batch_shape + matrix.shape[-2:]),
        left_side=True,
        lower=True,
        transpose_a=transpose,
    )


def bartlett_tril(key: Array, df: Array, dim: int, shape: tuple[int, ...]) -> Array:
    r"""Cholesky factors T of draws T T' from Wishart(df, I).

    :math:`T_{ii}^2 \sim \chi^2(\nu + 1 - i)` and :math:`T_{ij} \sim N(0, 1)` below the
    diagonal (Bartlett, 1933). The diagonal is drawn on the log scale, where gradients
    with respect to df stay finite, and kept above the fourth root of the smallest
    float, so that a covariance matrix drawn with it does not overflow.

    :param key: a random key.
    :param df: degrees of freedom, of shape (...), greater than ``dim - 1``.
    :param dim: D, the size of the matrices.
    :param shape: batch shape of the draws.
    :return: array of shape ``shape + (D, D)``.
    """
    key_diagonal, key_lower = random.split(key)
    halves = 0.5 * (df[..., None] - jnp.arange(dim, dtype=df.dtype))
    log_gamma = random.loggamma(key_diagonal, halves, shape + (dim,), df.dtype)
    floor = 0.25 * jnp.log(jnp.finfo(df.dtype).tiny)
    diagonal = jnp.exp(jnp.maximum(0.5 * (math.log(2.0) + log_gamma), floor))
    lower = jnp.tril(random.normal(key_lower, shape + (dim, dim), df.dtype), -1)
    return lower + diagonal[..., None] * jnp.eye(dim, dtype=df.dtype)
