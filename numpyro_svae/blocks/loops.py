# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops over a time axis that may be shared, and sums over it."""

from jax import Array, lax
import jax.numpy as jnp

__all__ = ["Sequence", "pad", "pairwise_sum", "time_last"]


class Sequence:
    """Arrays with a time axis, split into those to scan and those shared by all steps.

    :param length: number of steps.
    :param arrays: pairs ``(array, rank)``; axis ``rank`` is time, of size ``length`` or
        one.
    """

    def __init__(self, length: int, *arrays: tuple[Array, int]):
        self.stepped = [x.shape[r] == length != 1 for x, r in arrays]
        self.shared = [
            None if s else lax.index_in_dim(x, 0, r, keepdims=False)
            for s, (x, r) in zip(self.stepped, arrays)
        ]
        self.xs = [
            jnp.moveaxis(x, r, 0) for s, (x, r) in zip(self.stepped, arrays) if s
        ]

    def at(self, xs: list[Array]) -> list[Array]:
        """All arrays at the step whose scanned slices are ``xs``."""
        scanned = iter(xs)
        return [next(scanned) if s else c for s, c in zip(self.stepped, self.shared)]


def time_last(x: Array, rank: int) -> Array:
    """Move the leading time axis of a loop's output behind ``rank`` entry axes."""
    return jnp.moveaxis(x, 0, rank)


def pad(x: Array, rank: int) -> Array:
    """Repeat the last of ``T - 1`` steps, so that a loop takes ``T`` identical turns.

    A time axis of size one stays: it is shared by all steps. With no step at all the
    result is one step of zeros.
    """
    size = x.shape[rank]
    if size == 0:
        return jnp.zeros(x.shape[:rank] + (1,) + x.shape[rank + 1 :], x.dtype)
    if size == 1:
        return x
    return jnp.concatenate([x, lax.slice_in_dim(x, size - 1, size, axis=rank)], rank)


def pairwise_sum(x: Array) -> Array:
    """Sum over the first axis in pairs, which keeps rounding errors small."""
    if x.shape[0] == 0:
        return jnp.sum(x, 0)
    while x.shape[0] > 1:
        if x.shape[0] % 2:
            x = jnp.concatenate([x, jnp.zeros_like(x[:1])])
        x = x[0::2] + x[1::2]
    return x[0]
