# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops over time for large matrices, with time and lanes in front of the entries.

Operations on large matrices are batched library calls, which want the batch first.
Arrays ``(..., T, lanes)`` are moved there before a loop and back after it, and the
function of a step is mapped over both axes. Between loops XLA cancels the moves, so
what else is done along time has to move the axes too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.blocks.linalg import MAX_UNROLLED
from numpyro_svae.blocks.terms import collected

__all__ = ["each_step", "over_time", "suits"]

Shape = jax.ShapeDtypeStruct


def suits(*trees: Any) -> bool:
    """Whether entries are so many that they are better last."""
    return max(x.shape[0] for x in jax.tree.leaves(trees)) > MAX_UNROLLED


def _moved(count: int, x: Array) -> Array:
    """The last axes in front, without those of size one."""
    x = jnp.moveaxis(x, range(-count, 0), range(count))
    return x.reshape([n for n in x.shape[:count] if n > 1] + list(x.shape[count:]))


def _restored(count: int, like: Shape, x: Array) -> Array:
    """The inverse of :func:`_moved`, where the shape was that of ``like``."""
    x = x.reshape(like.shape[-count:] + like.shape[:-count])
    return jnp.moveaxis(x, range(count), range(-count, 0))


def _mapped(function: Callable, count: int, args: Any, out: Any) -> Callable:
    """A function mapped over moved axes, but for those of size one.

    :param args: shapes of its arguments before the move.
    :param out: shapes of its results, likewise.
    """
    for axis in range(-1, -count - 1, -1):
        batch_axes = [
            jax.tree.map(lambda x, i=axis: 0 if x.shape[i] > 1 else None, tree)
            for tree in (args, out)
        ]
        if jax.tree.leaves(batch_axes[0]):
            function = jax.vmap(function, *batch_axes)
    return function


def _with_time(steps: int, x: Shape) -> Shape:
    """The shape of so many of ``x (..., lanes)``."""
    return Shape((*x.shape[:-1], steps, x.shape[-1]), x.dtype)


def _room(x: Shape) -> Array:
    """Moved zeros in place of ``x (..., T, lanes)``, whose time is not left out."""
    lanes = () if x.shape[-1] == 1 else x.shape[-1:]
    return jnp.zeros(x.shape[-2:-1] + lanes + x.shape[:-2], x.dtype)


def over_time(
    step: Callable, state: Any, length: int, args: tuple, reverse: bool
) -> tuple[Any, Any]:
    """What :func:`numpyro_svae.blocks.loops.over_time` does."""

    def first(state: Any, args: tuple) -> tuple[Any, Any]:
        now = jax.tree.map(lambda x: x[..., 0, :], args)
        return now, step(state, *now)

    now, (after, out) = jax.eval_shape(first, state, args)
    step = _mapped(step, 1, (state, *now), (after, out))
    several = jax.tree.map(lambda x: x.shape[-2] > 1, args)
    moved = jax.tree.map(partial(_moved, 2), args)

    def turn(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        time = length - 1 - i if reverse else i
        state, found = carry

        def take(x: Array, several: bool) -> Array:
            return lax.dynamic_index_in_dim(x, time, 0, False) if several else x

        def write(found: Array, x: Array) -> Array:
            return lax.dynamic_update_index_in_dim(found, x, time, 0)

        state, out = step(state, *jax.tree.map(take, moved, several))
        return state, jax.tree.map(write, found, out)

    all_out = jax.tree.map(partial(_with_time, length), out)
    carry = jax.tree.map(partial(_moved, 1), state), jax.tree.map(_room, all_out)
    last, found = lax.fori_loop(0, length, turn, carry)
    last = jax.tree.map(partial(_restored, 1), after, last)
    return last, jax.tree.map(partial(_restored, 2), all_out, found)


def each_step(function: Callable, length: int, own: int, args: tuple) -> Any:
    """What :func:`numpyro_svae.blocks.loops.each_step` does, in blocks of ``own``."""
    several = jax.tree.map(lambda x: x.shape[-2] > 1, args)
    block = jax.tree.map(
        lambda x: Shape((*x.shape[:-2], min(x.shape[-2], own), x.shape[-1]), x.dtype),
        args,
    )
    out = jax.eval_shape(function, *block)
    mapped = _mapped(function, 2, block, out)
    moved = jax.tree.map(partial(_moved, 2), args)

    def steps(start: Array) -> Any:
        def take(x: Array, several: bool) -> Array:
            x = lax.dynamic_slice_in_dim(x, start, own, 0) if several else x
            return x[0] if several and own == 1 else x

        return collected(mapped(*jax.tree.map(take, moved, several)), out)

    def write(start: Array, found: Array, x: Array, like: Shape) -> Array:
        x = x if like.shape[-2] > 1 else x[None]
        return lax.dynamic_update_slice_in_dim(found, x, start, 0)

    def turn(i: Array, found: Any) -> Any:
        start = i * own  # clamped, for reading as for writing
        return jax.tree.map(partial(write, start), found, steps(start), sums)

    def whole(x: Shape) -> Shape:
        time = length if x.shape[-2] == own else 1
        return _with_time(time, jax.eval_shape(lambda x: x[..., 0, :], x))

    sums = jax.eval_shape(lambda out: collected(out, out), out)
    all_sums = jax.tree.map(whole, sums)
    found = lax.fori_loop(0, -(-length // own), turn, jax.tree.map(_room, all_sums))
    return jax.tree.map(partial(_restored, 2), all_sums, found)
