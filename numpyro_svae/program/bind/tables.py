# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Densities of a site given discrete sites, as tables of their states."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.run.positions import Extent, extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.run.wrappers import at_positions
from numpyro_svae.program.structure.assignments import (
    assignment_at,
    at_each,
    by_states,
    can_list,
    entry_at,
)
from numpyro_svae.program.structure.factors import TableFactor
from numpyro_svae.program.structure.probing import Found, Prober

__all__ = ["bind_table", "find_table", "is_picked"]

Values = dict[str, Any]


def bind_table(prober: Prober, site: Site, selectors: tuple[str, ...]) -> Array:
    """Log probabilities ``(*positions, *states)`` in each assignment of the selectors.

    Of a latent site its own states come last. An observed site has the positions of
    its selectors.
    """
    if not site.observed:
        positions = extent_of(site).positions

        def probs(assignment: Values) -> Array:
            values = {**prober.plain_values(), **assignment}
            return at_each(site, prober.read(values)[site.name]["probs"], 1)

        table = by_states(prober, selectors, probs, positions)
        possible = table > 0
        return jnp.where(possible, jnp.log(jnp.where(possible, table, 1.0)), -jnp.inf)
    extra = max(extent_of(prober.sites[name]).extra for name in selectors)

    def log_prob(assignment: Values) -> Array:
        return _log_prob(prober, site, {**prober.plain_values(), **assignment}, extra)

    positions = site.batch_shape + tuple(site.outer.event_shape[:extra])
    return by_states(prober, selectors, log_prob, positions)


def _log_prob(prober: Prober, site: Site, values: Values, extra: int) -> Array:
    fn: Any = at_positions(prober.program.sites(values)[site.name].outer, extra)
    return fn.log_prob(site.value)


def find_table(
    prober: Prober, site: Site, selectors: tuple[str, ...]
) -> TableFactor | None:
    """The factor of a site given discrete sites, if the program agrees with it."""
    factor = TableFactor(site.name, form="density", selectors=selectors, coupled=True)
    if not can_list(prober, selectors):
        return None
    if site.observed:
        return factor if is_picked(prober, site, selectors) else None
    extent = extent_of(site)
    table = np.exp(jax.jit(lambda: bind_table(prober, site, selectors))())

    def agrees(values: Values, run: Found) -> bool:
        index = assignment_at(prober, extent, selectors, values)
        return run.agrees(site.name, probs=entry_at(table, index, extent, 1))

    return factor if prober.holds(agrees) else None


def is_picked(prober: Prober, site: Site, selectors: tuple[str, ...]) -> bool:
    """Whether an observed site's density is picked by discrete sites position-wise."""
    extra = max(extent_of(prober.sites[name]).extra for name in selectors)
    if at_positions(site.outer, extra) is None:
        return False
    table = jax.jit(lambda: bind_table(prober, site, selectors))()
    positions = table.shape[: table.ndim - len(selectors)]
    extent = Extent(site.batch_shape, positions, None, 1.0)
    at = jax.jit(lambda values: _log_prob(prober, site, values, extra))

    def agrees(values: Values, run: Found) -> bool:
        index = assignment_at(prober, extent, selectors, values)
        expected = entry_at(table, index, extent, 0)
        return bool(np.allclose(at(values), expected, rtol=1e-3, atol=1e-3))

    return prober.holds(agrees)
