# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Linear recursions over time, with time cut into chunks where lanes are few.

Chunks run as lanes, first from zero, which gives what each adds and the matrix that it
multiplies its start by. Then their true starts are found, in a short loop over the
chunks or in a tree, and they run once more from these (the two passes of Blelloch,
*Prefix sums and their applications*, 1990). With chunks of one step, the tree is an
associative scan of all of them. Layout as in
:mod:`numpyro_svae.blocks.chain_steps`; lanes of chunks are ``(C, N)``, flattened.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.blocks import linalg
from numpyro_svae.blocks.linalg import matmul, matvec, square, transpose
from numpyro_svae.blocks.loops import over_time

__all__ = [
    "chunk_count",
    "in_a_tree",
    "join",
    "linear_scan",
    "split",
    "starts",
]

MAX_CHUNKED_LANES = 4
MAX_CHUNKED_SIZE = 8  # above it, a processor loses more by passing twice than it gains
MIN_CHUNKED_STEPS = 32  # times the square of the size of a state
CHUNK_LANES = 128
CHUNK_STEPS = (
    16  # on accelerators, where a step takes as long for many lanes as for few
)
MAX_ACCELERATED_LANES = 256


def chunk_count(length: int, lanes: int, size: int) -> int:
    """How many chunks to cut time into; one means that steps are taken in order.

    :param length: number of steps.
    :param lanes: number of chains.
    :param size: of a state.
    """
    if jax.default_backend() != "cpu":
        most = MAX_ACCELERATED_LANES if jax.device_count() == 1 else MAX_CHUNKED_LANES
        worth_it = lanes <= most and length >= 4 * CHUNK_STEPS
        return length // CHUNK_STEPS if worth_it else 1
    few = lanes <= MAX_CHUNKED_LANES and size <= MAX_CHUNKED_SIZE
    worth_it = few and length >= MIN_CHUNKED_STEPS * size**2
    return CHUNK_LANES // lanes if worth_it else 1


def in_a_tree(chunks: int) -> bool:
    """Whether to find the starts of chunks in a tree, which has few levels.

    On a processor a loop over them does less work.

    :param chunks: their number.
    """
    return jax.default_backend() != "cpu" and chunks > 4


def _spread(x: Array, chunks: int, lanes: int) -> Array:
    """What all chunks have in common, ``(..., N or 1)``, as ``(..., C N)``."""
    x = jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], chunks, lanes))
    return x.reshape(*x.shape[:-2], chunks * lanes)


def split(
    x: Array, length: int, chunks: int, lanes: int, identity: bool = False
) -> Array:
    """Arrays of at most ``length`` steps, ``(..., T or 1, N or 1)``, as chunks.

    Times past the end are zero, or the identity.

    :return: shape ``(..., length / C or 1, C N)``.
    """
    if x.shape[-2] == 1:
        return _spread(x, chunks, lanes)
    own = -(-length // chunks)
    x = jnp.broadcast_to(x, (*x.shape[:-1], lanes))
    past = jnp.zeros((*x.shape[:-2], chunks * own - x.shape[-2], lanes), x.dtype)
    if identity:
        past = past + linalg.eye(x)
    x = jnp.concatenate([x, past], -2).reshape(*x.shape[:-2], chunks, own, lanes)
    return jnp.swapaxes(x, -3, -2).reshape(*x.shape[:-3], own, chunks * lanes)


def join(x: Array, chunks: int, length: int) -> Array:
    """The inverse of :func:`split`."""
    *entries, own, lanes = x.shape
    x = x.reshape(*entries, own, chunks, lanes // chunks)
    x = jnp.swapaxes(x, -3, -2).reshape(*entries, chunks * own, lanes // chunks)
    return x[..., :length, :]


def starts(
    hop: Callable,
    merge: Callable,
    start: Any,
    chunk: Any,
    chunks: int,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """States where chunks start, as lanes, and the state after the last of them.

    :param hop: from a chunk and the state that it starts from to the one it ends in.
    :param merge: two chunks, in the order that they are run in, as one.
    :param start: the state that the first chunk starts from.
    :param chunk: all chunks, as lanes.
    """
    chunk = jax.tree.map(lambda x: x.reshape(*x.shape[:-1], chunks, -1), chunk)
    find = _starts_in_a_tree if in_a_tree(chunks) else _starts_in_order
    last, found = find(hop, merge, start, chunk, reverse)
    return last, jax.tree.map(lambda x: x.reshape(*x.shape[:-2], -1), found)


def _starts_in_order(hop, merge, start, chunk, reverse):
    del merge  # one after the other
    chunk = jax.tree.map(lambda x: jnp.moveaxis(x, -2, 0), chunk)

    def step(state, of_chunk):
        return hop(of_chunk, state), state

    last, found = lax.scan(step, start, chunk, reverse=reverse)
    return last, jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), found)


def _starts_in_a_tree(hop, merge, start, chunk, reverse):
    """All that is run before each chunk, merged into one, from which one hop leads."""
    ranks = jax.tree.map(jnp.ndim, chunk)
    rank = max(jax.tree.leaves(ranks))

    def padded(x: Array) -> Array:
        return x.reshape((1,) * (rank - x.ndim) + x.shape)

    def merged(first: Any, second: Any) -> Any:
        first, second = (
            jax.tree.map(lambda x, n: x.reshape(x.shape[rank - n :]), tree, ranks)
            for tree in (first, second)
        )
        return jax.tree.map(padded, merge(first, second))

    whole = lax.associative_scan(
        merged, jax.tree.map(padded, chunk), reverse=reverse, axis=rank - 2
    )
    whole = jax.tree.map(lambda x, n: x.reshape(x.shape[rank - n :]), whole, ranks)
    count = jax.tree.leaves(chunk)[0].shape[-2]

    def spread(x: Array) -> Array:
        return jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], count, x.shape[-1]))

    def shifted(begin: Array, end: Array) -> Array:
        begin = begin[..., None, :]
        parts = (end[..., 1:, :], begin) if reverse else (begin, end[..., :-1, :])
        return jnp.concatenate(parts, -2)

    ends = hop(whole, jax.tree.map(spread, start))
    last = jax.tree.map(lambda x: x[..., 0 if reverse else -1, :], ends)
    return last, jax.tree.map(shifted, start, ends)


def _times(matrix: Array, x: Array) -> Array:
    return matvec(matrix, x) if x.ndim < matrix.ndim else matmul(matrix, x)


def linear_scan(
    step: Callable,
    push: Callable,
    start: Any,
    matrices: Any,
    shifts: Any,
    length: int,
    reverse: bool = False,
    squares: bool = False,
) -> tuple[Any, Any]:
    """A recursion ``x <- M_t x + u_t``, or ``X <- M_t X M_t' + U_t``.

    :param step: from a state, matrices and shifts to the next state and an output.
    :param push: from matrices and ``F`` to ``M_t F``.
    :param start: states ``(D, ..., N)``.
    :param matrices: a pytree of arrays ``(D, D, T or 1, N or 1)``.
    :param shifts: a pytree of arrays ``(D, ..., T or 1, N or 1)``.
    :param squares: whether the recursion is the second one.
    :return: the last state, and outputs with an axis of time.
    """
    leaves = jax.tree.leaves((start, matrices, shifts))
    lanes = max(x.shape[-1] for x in leaves)
    chunks = chunk_count(length, lanes, len(leaves[0]))

    if chunks == 1:
        return over_time(step, start, length, matrices, shifts, reverse=reverse)

    def both(state, matrices, shifts):
        x, total = state
        return (step(x, matrices, shifts)[0], push(matrices, total)), None

    def hop(chunk, x):
        total, shift = chunk
        moved = square(transpose(total), x) if squares else _times(total, x)
        return moved + shift

    def merge(first, second):
        return matmul(second[0], first[0]), hop(second, first[1])

    matrices = jax.tree.map(lambda x: split(x, length, chunks, lanes, True), matrices)
    shifts = jax.tree.map(lambda x: split(x, length, chunks, lanes), shifts)
    own = -(-length // chunks)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(_spread(x, chunks, lanes)), start)
    first = jax.tree.leaves(matrices)[0]
    identity = jnp.zeros_like(first[..., 0, :]) + linalg.eye(first[..., 0, :])
    (shift, total), _ = over_time(
        both, (zeros, identity), own, matrices, shifts, reverse=reverse
    )
    whole = jax.tree.map(lambda x: jnp.broadcast_to(x, (*x.shape[:-1], lanes)), start)
    last, begin = starts(hop, merge, whole, (total, shift), chunks, reverse)
    _, out = over_time(step, begin, own, matrices, shifts, reverse=reverse)
    return last, jax.tree.map(lambda x: join(x, chunks, length), out)
