# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops over an axis of time, the last but one, that may be shared; sums over it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.blocks import batch_first
from numpyro_svae.blocks.terms import collected

__all__ = [
    "each_step",
    "first_steps",
    "flip_steps",
    "last_steps",
    "over_time",
    "pairwise_sum",
    "some_steps",
    "steps_at_once",
]

MIN_COPIED_LANES = 16  # what fewer lanes read is not vectorised anyway
BLOCK_LANES = 64


def over_time(
    step: Callable, state: Any, length: int, *args: Any, reverse: bool = False
) -> tuple[Any, Any]:
    """A loop over the axis of time, like ``lax.scan``, without moving it to the front.

    :param step: from a state and the arguments at a time to the next state and outputs.
    :param args: pytrees of arrays ``(..., T, lanes)``. What has one step is shared by
        all, and the last step stands for those that are missing.
    :return: the last state, and outputs ``(..., length, lanes)``.
    """
    if length and batch_first.suits(state, args):
        return batch_first.over_time(step, state, length, args, reverse)
    taken = _copied if _lanes(state, args) >= MIN_COPIED_LANES else lambda x: x

    def at(time: Array) -> Any:
        def take(x: Array) -> Array:
            if x.shape[-2] < 2:
                return jnp.sum(x, -2)
            return taken(lax.dynamic_slice_in_dim(x, time, 1, x.ndim - 2))[..., 0, :]

        return jax.tree.map(take, args)

    def turn(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        time = length - 1 - i if reverse else i
        state, found = carry
        state, out = step(state, *at(time))
        return state, jax.tree.map(partial(_write, time), found, out)

    def room(x: Any) -> Array:
        return jnp.zeros((*x.shape[:-1], length, x.shape[-1]), x.dtype)

    _, out = jax.eval_shape(lambda state: step(state, *at(jnp.zeros((), int))), state)
    found = jax.tree.map(room, out)
    return lax.fori_loop(0, length, turn, (state, found)) if length else (state, found)


def _lanes(*trees: Any) -> int:
    return max(x.shape[-1] for x in jax.tree.leaves(trees))


def _write(time: Array, found: Array, x: Array) -> Array:
    return lax.dynamic_update_index_in_dim(found, x, time, found.ndim - 2)


def _copied(x: Array) -> Array:
    """A copy of a slice, written in two parts so that it is one.

    XLA would fuse the slice into all that reads it, and what reads through the index of
    a loop is not vectorised on a CPU.
    """
    half = x.shape[0] // 2
    if half == 0:
        return x
    first = lax.dynamic_update_slice_in_dim(jnp.zeros_like(x), x[:half], 0, 0)
    return lax.dynamic_update_slice_in_dim(first, x[half:], half, 0)


def steps_at_once(length: int, lanes: int) -> int:
    """How many independent steps to take at once.

    On a single processor, as many as keep intermediate results in cache. Where steps
    may be spread over devices, a loop over blocks of them would send them about.

    :param length: number of steps.
    :param lanes: number of chains.
    """
    if jax.default_backend() != "cpu":
        return length
    if jax.device_count() > 1:
        return length if lanes < MIN_COPIED_LANES else 1
    return min(-(-BLOCK_LANES // max(lanes, 1)), length)


def each_step(function: Callable, length: int, *args: Any) -> Any:
    """Apply a function of independent steps to arrays ``(..., T or 1, N or 1)``.

    Blocks of steps are taken at once, of which the last may overlap with the one
    before. Their steps are more lanes, unless lanes share what differs between steps.

    :param function: what it collects (see :func:`collect`) is added up.
    """
    own = steps_at_once(length, _lanes(args))
    if own < length and batch_first.suits(args):
        return batch_first.each_step(function, length, own, args)

    def summed(*args: Any) -> Any:
        out = function(*args)
        return collected(out, out)

    return summed(*args) if own == length else _by_blocks(summed, length, own, args)


def _by_blocks(function: Callable, length: int, own: int, args: tuple) -> Any:
    """A loop over blocks of ``own`` steps."""
    lanes = _lanes(args)
    leaves = jax.tree.leaves(args)
    flat = all(x.shape[-2] == 1 or x.shape[-1] == lanes for x in leaves)

    def block(start: Array, x: Array) -> Array:
        if x.shape[-2] > 1:
            x = _copied(lax.dynamic_slice_in_dim(x, start, own, x.ndim - 2))
        if flat and x.shape[-1] == lanes:
            x = jnp.broadcast_to(x, (*x.shape[:-2], own, lanes))
            return x.reshape(*x.shape[:-2], 1, own * lanes)
        return x

    def steps(start: Array) -> Any:
        def unblock(x: Array) -> Array:
            several = flat and x.shape[-1] == own * lanes
            return x.reshape(*x.shape[:-2], own, lanes) if several else x

        out = function(*jax.tree.map(partial(block, start), args))
        return jax.tree.map(unblock, out)

    def turn(i: Array, found: Any) -> Any:
        write = partial(lax.dynamic_update_slice_in_dim, start_index=i * own)
        pairs = found, steps(i * own)
        return jax.tree.map(lambda x, y: write(x, y, axis=x.ndim - 2), *pairs)

    def room(x: Any) -> Array:
        time = length if x.shape[-2] == own else 1
        return jnp.zeros((*x.shape[:-2], time, x.shape[-1]), x.dtype)

    found = jax.tree.map(room, jax.eval_shape(steps, 0))
    return lax.fori_loop(0, -(-length // own), turn, found)


def _on_time(function: Callable, tree: Any) -> Any:
    """Apply a function of arrays and their axis of time to arrays ``(..., T, lanes)``.

    The function keeps the axis.
    """

    def apply(x: Array) -> Array:
        if not batch_first.suits(x):
            return function(x, x.ndim - 2)
        x = function(jnp.moveaxis(x, (-2, -1), (0, 1)), 0)
        return jnp.moveaxis(x, (0, 1), (-2, -1))

    return jax.tree.map(apply, tree)


def first_steps(tree: Any, length: int) -> Any:
    """Of arrays ``(..., T, lanes)``, the first ``length`` steps."""
    return _on_time(partial(_some, 0, length), tree)


def last_steps(tree: Any, length: int) -> Any:
    """Of arrays ``(..., T, lanes)``, the last ``length`` steps."""
    return _on_time(partial(_some, -1, length), tree)


def _some(end: int, length: int, x: Array, axis: int) -> Array:
    own = x.shape[axis]
    start = max(own - length, 0) if end else 0
    return lax.slice_in_dim(x, start, start + min(length, own), axis=axis)


def flip_steps(tree: Any) -> Any:
    """Arrays ``(..., T, lanes)`` in the other direction of time.

    Before a move of axes, not after it: XLA fuses both into one kernel that takes ten
    times as long.
    """
    return _on_time(jnp.flip, tree)


def some_steps(tree: Any) -> Any:
    """Of arrays ``(..., T, lanes)`` without any step, one of zeros."""

    def some(x: Array) -> Array:
        return x if x.shape[-2] else jnp.sum(x, -2, keepdims=True)

    return jax.tree.map(some, tree)


@jax.custom_jvp
def pairwise_sum(x: Array) -> Array:
    """Sum over the first axis in pairs, which keeps rounding errors small.

    The derivative of the sum is the sum.
    """
    if x.shape[0] == 0:
        return jnp.sum(x, 0)
    while x.shape[0] > 1:
        if x.shape[0] % 2:
            x = jnp.concatenate([x, jnp.zeros_like(x[:1])])
        x = x[0::2] + x[1::2]
    return x[0]


@pairwise_sum.defjvp
def _pairwise_sum_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return pairwise_sum(*primals), jnp.sum(tangents[0], 0)
