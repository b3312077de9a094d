# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Whether the entries of a parameter are those of one block, times known numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import Array
import numpy as np

from numpyro_svae.program.bind.entries import Entries, Parameter, read_entries
from numpyro_svae.program.priors.table_priors import TablePrior
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.assignments import assignment_at, can_list, entry_at
from numpyro_svae.program.structure.probing import Found, Prober

__all__ = ["find_entries", "moves"]

Values = dict[str, Any]


def find_entries(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    prior: TablePrior | None,
    selectors: tuple[str, ...],
) -> str | None:
    """How the entries of a block are placed in a parameter.

    :param prober: the program.
    :param site: the site.
    :param parameter: its parameter.
    :param prior: the block; None if the parameter is known, in each state.
    :param selectors: the discrete sites that it depends on.
    :return: ``"gathered"`` if each position has a whole member of the batch of the
        block, for all arguments of the program; ``"placed"`` if entries are where they
        are one by one; None if they are not all of the block or known.
    """
    if not can_list(prober, selectors):
        return None

    def read(prober: Prober) -> Entries:
        return read_entries(prober, site, parameter, prior, selectors)

    entries = jax.jit(partial(read, prober))()
    if not _agrees(prober, site, parameter, prior, selectors, entries):
        return None
    if prior is None:
        return "placed"
    block = prior

    def whole(prober: Prober) -> Array:
        return jax.jit(lambda: read(prober).whole(block, parameter.rows))()

    gathered = bool(whole(prober)) and bool(prober.read_elsewhere(whole))
    return "gathered" if gathered else "placed"


def _agrees(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    prior: TablePrior | None,
    selectors: tuple[str, ...],
    entries: Entries,
) -> bool:
    """Whether entries are those that the program has at random values."""
    extent = extent_of(site, parameter.role, parameter.event_dim)
    if prior is not None and prior.normalised and not parameter.rows:
        learnt = np.asarray(entries.index) < prior.total
        if not np.allclose(np.asarray(entries.known)[learnt], 1.0, atol=1e-4):
            return False  # the complement of a probability is no multiple of its own

    def agrees(values: Values, found: Found) -> bool:
        block = np.zeros(0) if prior is None else prior.rows_of(values)
        expected = entries.values(block)
        if selectors:
            index = assignment_at(prober, extent, selectors, values)
            expected = entry_at(expected, index, extent, parameter.rank)
        return _close(found[site.name][parameter.name], expected)

    return prober.holds(agrees)


def _close(found: Any, expected: np.ndarray) -> bool:
    """Equality of each entry up to broadcasting and float32 rounding."""
    try:
        found, expected = np.broadcast_arrays(found, expected)
    except ValueError:
        return False
    size = np.max(np.abs(expected), initial=1e-30)
    return bool(np.allclose(found, expected, rtol=1e-3, atol=1e-6 * size))


def moves(prober: Prober, site: Site, parameter: Parameter) -> bool:
    """Whether a parameter depends on the arguments of the program.

    It may be a block as it is at some arguments, and a multiple of it at others.
    """
    values = prober.random_values(0)

    def read(prober: Prober) -> Array:
        return prober.read(values)[site.name][parameter.name]

    return not _close(prober.read_elsewhere(read), np.asarray(read(prober)))
