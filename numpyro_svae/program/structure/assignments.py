# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Tables by the states of discrete sites, and their entries at given states."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks.graph_order import LARGEST_TABLE
from numpyro_svae.program.run.positions import Extent, extent_of, read_at
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.probing import Prober

__all__ = ["assignment_at", "at_each", "by_states", "can_list", "entry_at"]

Values = dict[str, Any]


def can_list(prober: Prober, selectors: tuple[str, ...]) -> bool:
    """Whether the assignments of discrete sites are few enough for a table."""
    return math.prod(prober.locals[name].size for name in selectors) <= LARGEST_TABLE


def at_each(site: Site, value: Array, event_dim: int) -> Array:
    """A parameter at each position of a site."""
    event = value.shape[value.ndim - event_dim :]
    return jnp.broadcast_to(value, (*site.positions, *event))


def by_states(
    prober: Prober,
    selectors: tuple[str, ...],
    given: Callable[[Values], Any],
    positions: tuple[int, ...],
) -> Any:
    """Arrays of a run in each assignment, ``(*positions, *states, *event)``.

    :param given: maps values of the selectors to arrays ``(*positions, *event)``.
    """
    sizes = [prober.locals[name].size for name in selectors]
    if not sizes:
        return given({})
    grid = jnp.stack([jnp.ravel(g) for g in jnp.indices(sizes)], -1)

    def run(states: Array) -> Any:
        return given(
            {
                name: jnp.zeros_like(prober.sites[name].value) + state
                for name, state in zip(selectors, states)
            }
        )

    def arrange(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, len(positions))
        split = (*sizes, *leaf.shape[len(positions) + 1 :])
        return jnp.reshape(leaf, (*positions, *split))

    return jax.tree.map(arrange, jax.vmap(run)(grid))


def assignment_at(
    prober: Prober, extent: Extent, selectors: tuple[str, ...], values: Values
) -> np.ndarray:
    """Which assignment the selectors have at each position."""
    index = np.zeros(extent.positions, int)
    for name in selectors:
        states = read_at(values[name], extent_of(prober.sites[name]), extent, 0)
        index = index * prober.locals[name].size + np.asarray(states)
    return index


def entry_at(
    table: Any, index: np.ndarray, extent: Extent, event_dim: int
) -> np.ndarray:
    """Entries of a table ``(*positions, *states, *event)`` at an assignment."""
    table = np.asarray(table)
    event = table.shape[table.ndim - event_dim :]
    flat = np.reshape(table, (*extent.positions, -1, *event))
    chosen = np.expand_dims(index, tuple(range(-1 - event_dim, 0)))
    return np.squeeze(
        np.take_along_axis(flat, chosen, len(extent.positions)), len(extent.positions)
    )
