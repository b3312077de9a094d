# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops over an axis of time, the last but one, that may be shared; sums over it."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

__all__ = ["Sequence", "each_step", "pad", "pairwise_sum", "time_inside"]

MIN_LANES = 16  # with fewer, time is a better axis to vectorise than lanes


class Sequence:
    """A pytree of arrays ``(..., T or 1, lanes)``, split into those to scan over time
    and those shared by all steps.
    """

    def __init__(self, length: int, tree: Any):
        leaves, self.structure = jax.tree.flatten(tree)
        self.stepped = [x.shape[-2] == length != 1 for x in leaves]
        pairs = list(zip(self.stepped, leaves, strict=True))
        self.shared = [None if stepped else x[..., 0, :] for stepped, x in pairs]
        self.xs = [jnp.moveaxis(x, -2, 0) for stepped, x in pairs if stepped]

    def at(self, xs: list[Array]) -> Any:
        """The tree at the step whose scanned slices are ``xs``."""
        scanned = iter(xs)
        pairs = zip(self.stepped, self.shared, strict=True)
        leaves = [next(scanned) if stepped else x for stepped, x in pairs]
        return jax.tree.unflatten(self.structure, leaves)


def time_inside(tree: Any) -> Any:
    """Move the leading axis of a loop's output to the axis of time."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), tree)


def each_step(function: Callable, length: int, *args: Any) -> Any:
    """Apply a function of independent steps to arrays ``(..., T or 1, lanes)``.

    Many lanes are taken step by step, so that intermediate results stay in cache; with
    few, all steps become lanes at once.
    """
    if max(x.shape[-1] for x in jax.tree.leaves(args)) < MIN_LANES:
        return function(*args)
    sequence = Sequence(length, args)
    _, out = lax.scan(
        lambda _, xs: (None, function(*sequence.at(xs))), None, sequence.xs, length
    )
    return time_inside(out)


def pad(x: Array) -> Array:
    """Repeat the last of ``T - 1`` steps, so that a loop takes ``T`` identical turns.

    A time axis of size one stays: it is shared by all steps. With no step at all the
    result is one step of zeros.
    """
    size = x.shape[-2]
    if size == 0:
        return jnp.zeros(x.shape[:-2] + (1,) + x.shape[-1:], x.dtype)
    if size == 1:
        return x
    return jnp.concatenate([x, x[..., -1:, :]], -2)


def pairwise_sum(x: Array) -> Array:
    """Sum over the first axis in pairs, which keeps rounding errors small."""
    if x.shape[0] == 0:
        return jnp.sum(x, 0)
    while x.shape[0] > 1:
        if x.shape[0] % 2:
            x = jnp.concatenate([x, jnp.zeros_like(x[:1])])
        x = x[0::2] + x[1::2]
    return x[0]
