# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Densities of a site given discrete sites, as tables of their states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
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
from numpyro_svae.program.structure.factors import Source, TableFactor
from numpyro_svae.program.structure.probing import Found, Prober
from numpyro_svae.program.structure.sources import picked, sources_of

__all__ = ["bind_table", "find_density", "find_table"]

Values = dict[str, Any]


def bind_table(
    prober: Prober, site: Site, factor: TableFactor, weights: Values | None = None
) -> Array:
    """Log probabilities ``(*positions, *states)`` in each assignment of the selectors.

    Of a latent site its own states come last.

    :param factor: the factor of the site.
    :param weights: values of global sites that the probabilities depend on.
    """
    known, selectors = prober.plain_values() | (weights or {}), factor.selectors
    if not site.observed:
        positions = extent_of(site).positions

        def probs(assignment: Values) -> Array:
            values = {**known, **assignment}
            return at_each(site, prober.read(values)[site.name]["probs"], 1)

        table = by_states(prober, selectors, probs, positions)
        possible = table > 0
        return jnp.where(possible, jnp.log(jnp.where(possible, table, 1.0)), -jnp.inf)
    extra = len(site.outer.event_shape) - factor.event_dim

    def log_prob(assignment: Values) -> Array:
        return _log_prob(prober, site, {**known, **assignment}, extra)

    positions = site.batch_shape + tuple(site.outer.event_shape[:extra])
    return by_states(prober, selectors, log_prob, positions)


def _log_prob(prober: Prober, site: Site, values: Values, extra: int) -> Array:
    fn: Any = at_positions(prober.program.sites(values)[site.name].outer, extra)
    return fn.log_prob(site.value)


def find_table(
    prober: Prober, site: Site, selectors: tuple[str, ...]
) -> TableFactor | None:
    """The factor of a latent site given discrete sites, if the program agrees."""
    factor = TableFactor(site.name, form="density", selectors=selectors, coupled=True)
    if not can_list(prober, selectors):
        return None
    extent = extent_of(site)
    table = np.exp(jax.jit(lambda: bind_table(prober, site, factor))())

    def agrees(values: Values, run: Found) -> bool:
        index = assignment_at(prober, extent, selectors, values)
        return run.agrees(site.name, probs=entry_at(table, index, extent, 1))

    return factor if prober.holds(agrees) else None


def find_density(
    prober: Prober,
    site: Site,
    selectors: tuple[str, ...],
    blocks: tuple[str, ...] = (),
) -> TableFactor | None:
    """The factor of an observed site whose density discrete sites pick.

    Its positions are those of the discrete sites, or some of the steps of a chain.

    :param blocks: Gaussian blocks that the density is any function of.
    :return: None if it is not a product over positions.
    """
    most = max(extent_of(prober.sites[name]).extra for name in selectors)
    dims = len(site.outer.event_shape)
    for extra in range(min(most, dims), -1, -1):
        if at_positions(site.outer, extra) is not None:
            factor = TableFactor(
                site.name,
                form="density",
                selectors=selectors,
                coupled=len(selectors) > 1,
                event_dim=dims - extra,
                weights=blocks,
            )
            found = _placed(prober, site, factor)
            if found is not None:
                return found
    return None


def _placed(prober: Prober, site: Site, factor: TableFactor) -> TableFactor | None:
    """A factor with the steps that its site is at, if the program agrees with it."""
    selectors = factor.selectors
    blocks = [prober.priors[name] for name in factor.weights]
    names = [name for block in blocks for name in block.sites]
    extra = len(site.outer.event_shape) - factor.event_dim

    def of_weights(values: Values) -> Array:
        return bind_table(prober, site, factor, {n: values[n] for n in names})

    table, plain = jax.jit(of_weights), prober.plain_values()
    shape = jax.eval_shape(of_weights, plain).shape
    positions = shape[: len(shape) - len(selectors)]
    extent = Extent(site.batch_shape, positions, None, 1.0)
    at = jax.jit(lambda values: _log_prob(prober, site, values, extra))

    def agrees(source: Source, values: Values, run: Found) -> bool:
        del run
        if source.selector is None:
            index = assignment_at(prober, extent, selectors, values)
        else:
            states = picked(prober, extent, source, values)
            index = np.broadcast_to(states, positions)
        expected = entry_at(table(values), index, extent, 0)
        return bool(np.allclose(at(values), expected, rtol=1e-3, atol=1e-3))

    sources: Iterable[Source] = [Source()]
    if not factor.coupled:
        sources = sources_of(prober, extent, None, selectors[0])
    for source in sources:
        if prober.holds(partial(agrees, source)):
            return replace(factor, source=source)
    return None
