# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Linear algebra on many small matrices, entries first and lanes last.

A matrix is an array ``(I, J, *lanes)`` and a vector ``(I, *lanes)``; lanes (time,
batch, samples) broadcast against each other. Up to ``MAX_UNROLLED`` rows every
operation is made of products that are vectorised over the lanes; above
it, batched library calls do the same work. Each operation has its derivative rule,
whose terms are again products and triangular solves.
"""

from functools import reduce
import math

import jax
from jax import Array, custom_vjp
import jax.numpy as jnp

__all__ = [
    "MANY_LANES",
    "MAX_UNROLLED",
    "batched",
    "dot",
    "eye",
    "log_diagonal",
    "matmul",
    "matmul_transposed",
    "matvec",
    "outer",
    "square",
    "sum_to",
    "symmetrize",
    "transpose",
]

MAX_UNROLLED = 20
MANY_LANES = 16  # what fewer take to run is less than what a kernel takes to start
MOST_TERMS = 8  # of a sum in one kernel: with jax 0.12, 16 take 30 times as long as 8


def transpose(a: Array) -> Array:
    """Matrix transpose of ``(I, J, *lanes)``."""
    return jnp.swapaxes(a, 0, 1)


def symmetrize(a: Array) -> Array:
    """The symmetric part of ``(D, D, *lanes)``."""
    return 0.5 * (a + transpose(a))


def outer(x: Array, y: Array) -> Array:
    """The products ``x_i y_j`` of ``(I, *lanes)`` and ``(J, *lanes)``."""
    return x[:, None] * y[None]


@custom_vjp
def dot(x: Array, y: Array) -> Array:
    """The sum over the first axis of ``x y``, which XLA need not reduce over."""
    return reduce(jnp.add, (x[i] * y[i] for i in range(x.shape[0])))


def _dot_fwd(x, y):
    return dot(x, y), (x, y)


def _dot_bwd(residuals, g):
    x, y = residuals
    return sum_to(g[None] * y, x.shape), sum_to(g[None] * x, y.shape)


dot.defvjp(_dot_fwd, _dot_bwd)


def eye(a: Array) -> Array:
    """The identity, shaped to broadcast against ``a (D, D, *lanes)``."""
    size = a.shape[0]
    return jnp.eye(size, dtype=a.dtype).reshape((size, size) + (1,) * (a.ndim - 2))


@custom_vjp
def log_diagonal(a: Array) -> Array:
    """The sum of the logarithms of the diagonal: half of ``log det(a a')``."""
    return jnp.sum(jnp.log(jnp.stack([a[i, i] for i in range(a.shape[0])])), 0)


def _log_diagonal_fwd(a):
    return log_diagonal(a), a


def _log_diagonal_bwd(a, g):
    identity = eye(a)
    return (g * identity / jnp.where(identity == 1, a, 1.0),)


log_diagonal.defvjp(_log_diagonal_fwd, _log_diagonal_bwd)


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``a`` over the axes that broadcasting from ``shape`` has enlarged."""
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and a.shape[i] != 1)
    return jnp.sum(a, axes, keepdims=True) if axes else a


def batched(operation, a: Array, *others: Array) -> Array:
    """Apply a function of batch-first matrices to lanes-last ones."""
    lanes = jnp.broadcast_shapes(*(x.shape[2:] for x in (a, *others)))
    arrays = (jnp.broadcast_to(x, x.shape[:2] + lanes) for x in (a, *others))
    first = (jnp.moveaxis(x, (0, 1), (-2, -1)) for x in arrays)
    return jnp.moveaxis(operation(*first), (-2, -1), (0, 1))


# Products


@custom_vjp
def matmul(a: Array, b: Array) -> Array:
    """The matrix product of ``a (I, K, *lanes)`` and ``b (K, J, *lanes)``."""
    if a.shape[1] > MAX_UNROLLED:
        return batched(_library_matmul, a, b)
    lanes = jnp.broadcast_shapes(a.shape[2:], b.shape[2:])
    if 0 in a.shape[:2]:  # as of noise in no direction
        return jnp.zeros((a.shape[0], b.shape[1]) + lanes, jnp.result_type(a, b))
    few = math.prod(lanes) < MANY_LANES
    return _sum_of_products(a, b) if few else _product_by_rows(a, b, lanes)


def _library_matmul(a: Array, b: Array) -> Array:
    """XLA would read transposed matrices as they are, which takes twice as long."""
    return jnp.matmul(*jax.lax.optimization_barrier((a, b)))


@jax.jit
def _sum_of_products(a: Array, b: Array) -> Array:
    """The product as few kernels, each of which reads and writes every entry once."""
    terms = [a[:, k, None] * b[None, k] for k in range(a.shape[1])]
    total = reduce(jnp.add, terms[:MOST_TERMS])
    for start in range(MOST_TERMS, len(terms), MOST_TERMS):
        total = jax.lax.optimization_barrier(total)
        total = reduce(jnp.add, terms[start : start + MOST_TERMS], total)
    return total


def _product_by_rows(a: Array, b: Array, lanes: tuple[int, ...]) -> Array:
    """The product as two kernels, for half of the rows each, written in place.

    XLA would fuse a whole sum into its uses, and compute it again for each. It would
    also hand a kernel with more products than numbers to read to several threads, which
    costs more than such a small kernel takes; not so what writes into a larger array.
    """
    product = jnp.zeros((a.shape[0], b.shape[1]) + lanes, jnp.result_type(a, b))
    rows = -(-a.shape[0] // 2)
    for i in range(0, a.shape[0], rows):
        some = _sum_of_products(a[i : i + rows], b)
        product = jax.lax.dynamic_update_slice_in_dim(product, some, i, 0)
    return product


def matvec(a: Array, x: Array) -> Array:
    """The product of ``a (I, K, *lanes)`` and ``x (K, *lanes)``."""
    return matmul(a, x[:, None])[:, 0]


def matmul_transposed(a: Array, b: Array) -> Array:
    """``a' b`` for ``a (K, I, *lanes)`` and ``b (K, J, *lanes)``."""
    return matmul(transpose(a), b)


def square(a: Array, b: Array) -> Array:
    """``a' b a`` for symmetric ``b``."""
    return matmul_transposed(a, matmul(b, a))


def _matmul_fwd(a, b):
    return matmul(a, b), (a, b)


def _matmul_bwd(residuals, g):
    a, b = residuals
    return (
        sum_to(matmul(g, transpose(b)), a.shape),
        sum_to(matmul(transpose(a), g), b.shape),
    )


matmul.defvjp(_matmul_fwd, _matmul_bwd)
