# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The last states of sequences that end within a scan, where time leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.forecasting.timeline import at_last

__all__ = ["check_last", "last_of_scan", "says_ends"]


def last_of_scan(first: Array, path: Array, lengths: Any) -> Array:
    """The last states of a chain that a scan spells.

    :param first: its first states, which sequences may share.
    :param path: the states after these, time leading.
    :param lengths: of the sequences, the first states among them.
    """
    first = jnp.broadcast_to(first, path.shape[1:]).astype(path.dtype)
    whole, rank = jnp.concatenate([first[None], path]), jnp.ndim(lengths)
    return at_last(jnp.moveaxis(whole, 0, rank), rank, lengths)


def says_ends(lengths: Callable[[Array], Array], leaf: Array, num_steps: int) -> Array:
    """Whether an argument says where the sequences of a scan end.

    They end at once where it is zero, and nowhere where it is the number of steps: a
    mask has no end after the last step.

    :param lengths: number of states of each sequence, of such an argument.
    :param leaf: the argument.
    :param num_steps: number of states of a whole sequence.
    """
    least, most = (lengths(jnp.full_like(leaf, n)) for n in (0, num_steps))
    return jnp.all(least == 1) & jnp.all(most == num_steps)


def check_last(
    name: str, leaf: Any, axis: int, lengths: Array | None, scanned: bool
) -> None:
    """Of what is used of an argument at the ends of sequences, these must be known.

    :param name: of the argument.
    :param leaf: the argument.
    :param axis: of time in it.
    :param lengths: of the sequences.
    :param scanned: whether their chains are spelled by a scan.
    :raises ValueError: naming the argument, if it has not one entry for each sequence
        in front of time.
    """
    if lengths is None or not scanned:
        return
    found, batch = jnp.shape(leaf), jnp.shape(lengths)
    if found[:axis] != batch:
        raise ValueError(
            f"Argument '{name}': found shape {found} with time in axis {axis}, in a "
            f"scan whose sequences, of shape {batch}, end at steps of their own; the "
            "next states depend on what it is there. Accepted: an argument with the "
            "axes of the sequences in front of time, or with entries for the steps "
            "after the first state alone."
        )
