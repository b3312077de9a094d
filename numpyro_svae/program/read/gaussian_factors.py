# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds the Gaussian factor that a program agrees with.

The factors that may be that of a site are compared with the program at random values of
all latent sites.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.bind.affine import (
    PARAMETERS,
    Affine,
    View,
    read_affine,
)
from numpyro_svae.program.bind.gathered import gathered_members, scanned_inputs
from numpyro_svae.program.read.factor_candidates import candidates
from numpyro_svae.program.run.positions import Extent, extent_of, is_at, read_at
from numpyro_svae.program.structure.assignments import assignment_at, can_list, entry_at
from numpyro_svae.program.structure.factors import GaussianFactor, Source
from numpyro_svae.program.structure.probing import Found, Prober
from numpyro_svae.program.structure.sources import picked, sources_of

__all__ = ["find_factor"]

Values = dict[str, Any]


def find_factor(
    view: View,
    parents: tuple[str, ...] = (),
    selectors: tuple[str, ...] = (),
    noise_by_state: bool = False,
) -> GaussianFactor | None:
    """The Gaussian factor of a site, or of a part of a chain.

    :param view: the site, with what holds its weight and its covariance.
    :param parents: the Gaussian sites that it depends on.
    :param selectors: the discrete sites that it depends on.
    :param noise_by_state: whether a known covariance depends on these.
    :return: None if the program agrees with none.
    """
    prober, holder = view.prober, view.holder
    several = view.role != "value" and len(selectors) > 1
    if not can_list(prober, selectors) or (holder is not None and several):
        return None
    extent = extent_of(view.site, view.role)
    if not all(is_at(extent_of(prober.sites[name]), extent) for name in parents):
        return None
    for factor in candidates(view, parents, selectors, noise_by_state):
        affine = jax.jit(partial(read_affine, prober, view.site, factor))()
        selector = selectors[0] if len(selectors) == 1 else None
        agreeing: list[GaussianFactor] = []
        for source in sources_of(prober, extent, holder, selector, True):
            if source.offset and factor.coupled:
                break
            if agreeing and source.gathered != agreeing[0].source.gathered:
                break
            found = replace(factor, source=source)
            if prober.holds(partial(_agrees, view, found, affine)):
                agreeing.append(found)
        if agreeing:
            found = agreeing[0] if len(agreeing) == 1 else _told_apart(view, agreeing)
            if _agrees_in_training(view, found):
                return found
    return None


def _told_apart(view: View, agreeing: list[GaussianFactor]) -> GaussianFactor:
    """Which state of a chain picks, that before a step or that after it.

    All states may be alike at the arguments and parameters that a program is read at:
    the factor is the one that agrees with it at others, too. Where it makes no sense
    there, as with a covariance that is none, it is the first.
    """
    there = replace(view, prober=view.prober.elsewhere)
    affine = jax.jit(partial(read_affine, there.prober, view.site, agreeing[0]))()
    for found in agreeing:
        if there.prober.holds(partial(_agrees, there, found, affine)):
            return found
    return agreeing[0]


def _agrees_in_training(view: View, factor: GaussianFactor) -> bool:
    """Whether a factor agrees with the program at other parameters, too.

    What they switch off at first, as a network whose last layer is zero, comes back.
    Others of a parameter that is bounded may make no sense, and then say nothing.
    """
    name = view.site.name
    if name not in view.prober.trained:
        return True
    there = replace(view, prober=view.prober.in_training)
    affine = jax.jit(partial(read_affine, there.prober, view.site, factor))()

    def agrees(values: Values, run: Found) -> bool:
        finite = all(np.all(np.isfinite(x)) for x in jax.tree.leaves(run[name]))
        return not finite or _agrees(there, factor, affine, values, run)

    return there.prober.holds(agrees)


# agreement


def _agrees(
    view: View, factor: GaussianFactor, affine: Affine, values: Values, run: Found
) -> bool:
    """Whether a run has the location and the covariance that a factor says."""
    prober, site, beside = view.prober, view.site, factor.beside
    extent, states = extent_of(site, factor.role), len(factor.selectors)
    index = _assignment(prober, extent, factor, values)

    def at(value: Array | None, event: int, by_state: bool) -> Any:
        if value is None:
            return 0.0
        if not by_state:
            return np.asarray(value)
        sizes = value.shape[value.ndim - event - states : value.ndim - event]
        tail = (*sizes, *value.shape[value.ndim - event :])
        return entry_at(
            jnp.broadcast_to(value, extent.positions + tail), index, extent, event
        )

    weight: Any = np.zeros((1, 0))
    cov: Any = None
    if view.holder is not None:
        weight, cov = view.holder.pair(values)
    member = None
    if factor.source.gathered:
        member = np.asarray(at(gathered_members(view, factor), 0, states > 0))
    elif factor.source.selector is not None and view.batched:
        member = index
    if member is not None:
        if np.any((member < 0) | (member >= view.holder.components)):
            return False  # what was read is no member: all of them are used together
        weight, cov = (None if p is None else p[member] for p in (weight, cov))
    if cov is None and affine.noise is not None:
        cov = at(affine.noise.covariance, 2, beside.noise_by_state)
    if affine.scale is not None:
        cov = at(affine.scale, 0, beside.all_by_state)[..., None, None] * cov
    known = at(affine.known, 2, beside.by_state)
    if factor.vector:
        x = _parents(prober, extent, factor.parents, values)[..., None]
        loc = at(affine.offset, 1, beside.by_state)
        if affine.known is not None:
            loc = loc + np.squeeze(known @ x, -1)
        if affine.regressor is not None:
            u = at(affine.regressor, 1, beside.all_by_state)[..., None]
            if affine.parent_map is not None:
                u = u + at(affine.parent_map, 2, beside.all_by_state) @ x
            loc = loc + np.squeeze(weight @ u, -1)
    else:
        loc = _part(view, affine, weight, known)
        if view.support is not None:
            cov = view.support.shown_covariance(cov)
    names = PARAMETERS[factor.role]
    return run.agrees(site.name, **dict(zip(names, (loc, cov))))


def _part(view: View, affine: Affine, weight: Any, known: Any) -> Any:
    """The location of a part of a chain, as the program has it."""
    inputs = None if affine.known is not None else scanned_inputs(view)
    matrix = known
    if view.columns and affine.parent_map is not None:
        matrix = known + weight @ np.asarray(affine.parent_map)
    elif inputs is not None:
        dim = weight.shape[-2]
        offset = weight[..., dim:] @ np.asarray(inputs)[..., None]
        square = np.broadcast_to(weight[..., :dim], (*offset.shape[:-2], dim, dim))
        matrix = np.concatenate([square, offset], -1)
    elif affine.known is None:
        matrix = weight
    if view.support is not None and affine.fixed is not None:
        matrix = view.support.shown(jnp.asarray(matrix)) + affine.fixed
    return np.squeeze(matrix, -1) if view.role == "initial" else matrix


def _assignment(
    prober: Prober, extent: Extent, factor: GaussianFactor, values: Values
) -> np.ndarray:
    """The states of the selectors at each position, as one number."""
    if len(factor.selectors) != 1:
        return assignment_at(prober, extent, factor.selectors, values)
    source = Source(None, factor.selectors[0], factor.source.offset)
    states = np.asarray(picked(prober, extent, source, values))
    return np.broadcast_to(states, extent.positions)


def _parents(
    prober: Prober, extent: Extent, parents: tuple[str, ...], values: Values
) -> np.ndarray:
    """Values of the parents at the positions of a site, side by side."""
    parts = [np.zeros((*extent.positions, 0))]
    for name in parents:
        found = read_at(values[name], extent_of(prober.sites[name]), extent, 1)
        size = prober.locals[name].size
        parts.append(np.broadcast_to(found, (*extent.positions, size)))
    return np.concatenate(parts, -1)
