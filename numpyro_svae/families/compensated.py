# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Products of matrices as if in twice the precision, rounded at the end.

Sums of exact products with their rounding errors, by arithmetic alone (Ogita, Rump and
Oishi, *Accurate sum and dot product*, SIAM Journal on Scientific Computing, 2005).
"""

from __future__ import annotations

import jax
from jax import Array, lax
import jax.numpy as jnp

__all__ = ["residual"]


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """``a + b``, and what rounding has taken off."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _halves(a: Array) -> tuple[Array, Array]:
    """The leading half of the digits, and the others."""
    bits = jnp.finfo(a.dtype).bits
    kept = -1 << (jnp.finfo(a.dtype).nmant + 1) // 2
    integer = jnp.dtype(f"int{bits}")
    leading = lax.bitcast_convert_type(a, integer) & kept
    high = lax.bitcast_convert_type(leading, a.dtype)
    return high, a - high


@jax.custom_jvp
def residual(c: Array, a: Array, b: Array) -> Array:
    """``c - a b``, of which all digits are right where it is small.

    :param c: of shape ``(..., I, J)``.
    :param a: of shape ``(..., I, K)``.
    :param b: of shape ``(..., K, J)``.
    """
    # Products of halves are exact, so that it does no harm to fuse them into sums.
    halves = ((x, y) for x in _halves(-a[..., None]) for y in _halves(b))
    products = [x * y[..., None, :, :] for x, y in halves]
    c = jnp.broadcast_to(c[..., None, :], (*products[0].shape[:-2], 1, c.shape[-1]))
    terms = jnp.concatenate([c, *products], -2)
    zero = jnp.zeros((), terms.dtype)
    # a reduction of pairs is one kernel to compile, a tree of sums is dozens
    sums = lax.reduce(
        (terms, jnp.zeros_like(terms)), (zero, zero), _add_pairs, (terms.ndim - 2,)
    )
    return sums[0] + sums[1]


def _add_pairs(x: tuple[Array, Array], y: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two sums, each with what rounding has taken off so far."""
    total, error = _two_sum(x[0], y[0])
    return total, (x[1] + y[1]) + error


@residual.defjvp
def _residual_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (c, a, b), (dc, da, db) = primals, tangents
    return residual(c, a, b), dc - da @ b - a @ db
