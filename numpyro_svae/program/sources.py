# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognises where the parameters of a factor come from.

They are fixed, those of one global block, or those of the member of a batch that a
discrete site or data pick. Each possibility is an identity that is checked at random
values of the latent sites.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from jax import Array
import numpy as np

from numpyro_svae.program.factors import Source
from numpyro_svae.program.places import Place, place_of, read_at
from numpyro_svae.program.priors import Prior
from numpyro_svae.program.probing import Found, Prober
from numpyro_svae.program.sites import Site

__all__ = ["find_source", "of_states", "picked", "sources_of", "split"]

_MOST_OFFSETS = 8
_EVENT_DIM = {
    "loc": 1,
    "covariance": 2,
    "initial_loc": 1,
    "initial_cov": 2,
    "transition_matrix": 2,
    "transition_cov": 2,
}


def split(
    prober: Prober, block_of: dict[str, Prior], used: Collection[str]
) -> tuple[Prior | None, str | None] | None:
    """The one block and the one discrete site among latent sites; None if more."""
    blocks = {block_of[name].name for name in used if name in block_of}
    others = [name for name in used if name not in block_of]
    if len(blocks) > 1 or len(others) > 1:
        return None
    selector = others[0] if others else None
    if selector is not None and not prober.locals[selector].discrete:
        return None
    return (prober.priors[blocks.pop()] if blocks else None), selector


def sources_of(
    prober: Prober,
    place: Place,
    prior: Any,
    selector: str | None,
    unpicked: bool = False,
) -> Iterator[Source]:
    """The ways in which a block and a discrete site may give parameters.

    :param prober: the program.
    :param place: where the factor is.
    :param prior: the block or the join that the parameters depend on.
    :param selector: the discrete site that they depend on.
    :param unpicked: whether it may pick from something else than the block.
    """
    name = None if prior is None else prior.name
    batch = prior is not None and prior.components is not None
    if selector is None:
        yield Source(name, gathered=batch)
    elif batch or prior is None or unpicked:
        local = place_of(prober.sites[selector])
        count = 1
        if local.extra == place.extra > 0:
            count = local.positions[-1] - place.positions[-1] + 1
        elif local.extra > place.extra:
            count = local.positions[-1]
        for offset in range(min(count, _MOST_OFFSETS)):
            yield Source(name, selector, offset)


def picked(
    prober: Prober, place: Place, source: Source, values: dict[str, Any]
) -> Array:
    """The states of a selector at the positions of a factor."""
    name = str(source.selector)
    local = place_of(prober.sites[name])
    return read_at(values[name], local, place, 0, source.offset)


def find_source(
    prober: Prober,
    site: Site,
    role: str,
    names: tuple[str, ...],
    options: tuple[Any, str | None],
    parts: Callable[[dict[str, Any]], tuple[Any, ...]],
    members: Callable[[dict[str, Any]], Any],
    shown: Callable[[list[Any]], list[Any]] = list,
) -> Source | None:
    """The source that agrees with the program at random points.

    :param prober: runs the program.
    :param site: the site.
    :param role: the part of its density.
    :param names: its parameters.
    :param options: the block or join and the discrete site that they depend on.
    :param parts: values of the parameters, with the batch of the block leading, from
        values of the latent sites.
    :param members: which member of the batch data pick, from the parameters at the
        plain values.
    :param shown: maps parameters of the block at the positions to those of the site.
    """
    prior, selector = options
    place = place_of(site, role, 0 if prior is None else len(prior.features))
    tables: list[Array] = []
    if prior is None and selector is not None:
        tables = [prober.by_state(site.name, name, selector) for name in names]
    plain = prober.read(prober.plain_values())[site.name]

    def agrees(source: Source, values: dict[str, Any], found: Found) -> bool:
        expected: list[Any]
        if prior is None:
            states = picked(prober, place, source, values)
            expected = [
                of_states(table, states, _EVENT_DIM[name])
                for name, table in zip(names, tables)
            ]
        elif source.selector is not None:
            states = picked(prober, place, source, values)
            expected = [part[states] for part in parts(values)]
        elif source.gathered:
            expected = [part[members(plain)] for part in parts(values)]
        else:
            expected = list(parts(values))
        if prior is not None:
            expected = shown(expected)
        return found.agrees(site.name, **dict(zip(names, expected)))

    for source in sources_of(prober, place, prior, selector):
        if prober.holds(partial(agrees, source)):
            return source
    return None


def of_states(table: Array, states: Any, event_dim: int) -> np.ndarray:
    """Entries ``(*positions, *event)`` of a table at states.

    :param table: ``(K, *positions, *event)``, or with fewer positions where they share
        a value.
    :param states: at the positions.
    """
    states = np.asarray(states)
    rank = max(states.ndim, table.ndim - 1 - event_dim)

    def aligned(x: np.ndarray, event: int) -> np.ndarray:
        missing = rank - (x.ndim - 1 - event)
        return x.reshape(len(x), *(1,) * missing, *x.shape[1:])

    chosen = states == np.arange(len(table)).reshape(-1, *(1,) * states.ndim)
    chosen = aligned(chosen, 0)[(..., *(None,) * event_dim)]
    return np.sum(np.where(chosen, aligned(np.asarray(table), event_dim), 0.0), 0)
