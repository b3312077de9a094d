# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Products of matrices and vectors that are given by their logarithms.

A loop over vectors takes the exponentials of a matrix that does not change once, and a
step is an ordinary product. Where one of its sums is so small that rounding to zero may
have lost something, the step is taken in logarithms: an exponential for each entry.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

__all__ = ["LogMatrix", "finite_max", "log_product"]


def finite_max(x: Array) -> Array:
    """The largest entry of the last axis, a constant to take off; zero if infinite."""
    largest = lax.stop_gradient(jnp.max(x, -1, keepdims=True))
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


class LogMatrix(NamedTuple):
    """Logarithms of matrices, ready for products.

    :param logs: A, of shape ``(..., K, K)``.
    :param row: the largest entry of each row, ``(..., K)``; no gradient flows into it.
    :param weight: ``exp(A - row)``, ``(..., K, K)``; nor into this one.
    """

    logs: Array
    row: Array
    weight: Array

    @classmethod
    def of(cls, logs: Array) -> LogMatrix:
        """From logarithms, which may be minus infinity."""
        row = finite_max(logs)
        return cls(logs, row[..., 0], lax.stop_gradient(jnp.exp(logs - row)))


@jax.custom_vjp
def log_product(matrix: LogMatrix, vector: Array) -> Array:
    """``log sum_j exp(A_ij + x_j)``. Neither it nor its gradient is NaN.

    :param matrix: A, without a batch, or with that of the vectors.
    :param vector: x, of shape ``(..., K)``.
    :return: of shape ``(..., K)``; minus infinity where nothing is possible.
    """
    return _value(matrix, vector)


def _value(matrix: LogMatrix, vector: Array) -> Array:
    scale = finite_max(vector)
    total = _product(matrix.weight, jnp.exp(vector - scale))
    return lax.cond(
        _safe(total),
        lambda: jnp.log(total) + matrix.row + scale,
        lambda: _in_logarithms(matrix.logs, vector),
    )


def _product(matrix: Array, vector: Array) -> Array:
    if matrix.ndim == 2:
        return vector @ matrix.T
    return jnp.sum(matrix * vector[..., None, :], -1)


def _safe(total: Array) -> Array:
    """Whether what was rounded to zero is less than rounding in every sum."""
    info = jnp.finfo(total.dtype)
    return jnp.all(total > info.tiny / info.eps**2)


def _in_logarithms(logs: Array, vector: Array) -> Array:
    terms = logs + vector[..., None, :]
    largest = finite_max(terms)
    total = jnp.sum(jnp.exp(terms - largest), -1)
    possible = total > 0
    value = jnp.log(jnp.where(possible, total, 1.0)) + largest[..., 0]
    return jnp.where(possible, value, -jnp.inf)


def _forward(matrix: LogMatrix, vector: Array) -> tuple[Array, tuple]:
    # Not by log_product itself: JAX mixes up residuals of second derivatives of loops.
    value = _value(matrix, vector)
    return value, (matrix, vector, value)


def _backward(residuals: tuple, cotangent: Array) -> tuple[LogMatrix, Array]:
    """Shares ``exp(A_ij + x_j - value_i)`` of each sum, times its cotangent."""
    (logs, row, weight), vector, value = residuals
    scale = finite_max(vector)
    total = jnp.exp(value - row - scale)

    def fast() -> tuple[Array, Array]:
        pull, entries = cotangent / total, jnp.exp(vector - scale)
        to_vector = entries * _product(jnp.swapaxes(weight, -1, -2), pull)
        if weight.ndim > 2:
            return weight * pull[..., :, None] * entries[..., None, :], to_vector
        size = weight.shape[-1]
        pairs = pull.reshape(-1, size).T @ entries.reshape(-1, size)
        return weight * pairs, to_vector

    def in_logarithms() -> tuple[Array, Array]:
        possible = jnp.isfinite(value)
        below = jnp.where(possible, value, 0.0)[..., None]
        share = jnp.exp(logs + vector[..., None, :] - below)
        share = jnp.where(possible[..., None], share, 0.0) * cotangent[..., None]
        whole = jnp.reshape(share, (-1, *logs.shape))
        return jnp.sum(whole, 0), jnp.sum(share, -2)

    to_logs, to_vector = lax.cond(_safe(total), fast, in_logarithms)
    zeros = jnp.zeros_like(row), jnp.zeros_like(weight)
    return LogMatrix(to_logs, *zeros), to_vector


log_product.defvjp(_forward, _backward)
