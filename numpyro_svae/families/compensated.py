# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Products of matrices as if in twice the precision, rounded at the end.

Sums of exact products with their rounding errors, by arithmetic alone (Ogita, Rump and
Oishi, *Accurate sum and dot product*, SIAM Journal on Scientific Computing, 2005).
"""

from __future__ import annotations

from jax import Array, lax
import jax.numpy as jnp

__all__ = ["residual"]


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """``a + b``, and what rounding has taken off."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _halves(a: Array) -> tuple[Array, Array]:
    """The leading half of the digits, a constant for derivatives, and the others."""
    bits = jnp.finfo(a.dtype).bits
    kept = -1 << (jnp.finfo(a.dtype).nmant + 1) // 2
    integer = jnp.dtype(f"int{bits}")
    leading = lax.bitcast_convert_type(lax.stop_gradient(a), integer) & kept
    high = lax.bitcast_convert_type(leading, a.dtype)
    return high, a - high


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
    rest = jnp.zeros(())
    while terms.shape[-2] > 1:
        if terms.shape[-2] % 2:
            zero = jnp.zeros_like(terms[..., :1, :])
            terms = jnp.concatenate([terms, zero], -2)
        terms, errors = _two_sum(terms[..., 0::2, :], terms[..., 1::2, :])
        rest = rest + jnp.sum(errors, -2)
    return terms[..., 0, :] + rest
