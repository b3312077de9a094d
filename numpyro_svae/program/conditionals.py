# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian densities given several latent sites: the factors of general graphs.

They are read off the program by running it with each parent on a basis, or in each of
its states, and then checked at random values.
"""

from __future__ import annotations

from functools import partial
import math
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.program.assignments import (
    assignment_at,
    at_each,
    by_states,
    can_list,
    entry_at,
)
from numpyro_svae.program.factors import Conditional, GaussianConditional, Source
from numpyro_svae.program.joins import Join
from numpyro_svae.program.known import known_noise, known_regression
from numpyro_svae.program.places import Place, place_of, read_at
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.probing import Found, Prober
from numpyro_svae.program.regressions import gathered_members
from numpyro_svae.program.sites import Site
from numpyro_svae.program.sources import sources_of

__all__ = [
    "Regressor",
    "bind_regression",
    "find_gaussian",
]

Values = dict[str, Any]


class Regressor(NamedTuple):
    """``u = U x + c`` where x concatenates the Gaussian parents of a site.

    :param known: moments of (F, Sigma) where no prior holds them, with batch
        ``(*positions, *states)``.
    :param parent_map: U, of shape ``(*positions, M, P)``.
    :param constant: c, of shape ``(*positions, M)``.
    """

    known: ExpectedRegression | None
    parent_map: Array
    constant: Array


# Gaussian sites


def bind_regression(prober: Prober, site: Site, factor: Conditional) -> Regressor:
    """Read how a Gaussian site depends on its parents."""
    holder = prober.holder(factor.source.prior)
    if holder is None or not holder.columns:
        return _known(prober, site, factor)

    def regressor(values: Values) -> Array:
        return prober.regressor(site.name, holder, values)

    constant = regressor({})
    shifts = [
        regressor({name: value}) - constant
        for name, value in _basis(prober, factor.parents)
    ]
    shape = (*constant.shape, 0)
    maps = jnp.stack(shifts, -1) if shifts else jnp.zeros(shape, constant.dtype)
    known = None
    if isinstance(holder, Join) and holder.noise is None:
        picks = factor.selectors if holder.by_state else ()
        known = known_noise(prober, site, picks, len(factor.selectors))
    return Regressor(known, maps, constant)


def _basis(prober: Prober, parents: tuple[str, ...]) -> list[tuple[str, Array]]:
    """Each unit vector of each parent, the same at all of its positions."""
    return [
        (name, jnp.zeros_like(prober.sites[name].value) + unit)
        for name in parents
        for unit in jnp.eye(prober.locals[name].size)
    ]


def _known(prober: Prober, site: Site, factor: Conditional) -> Regressor:
    """A known map for each assignment of the selectors: ``F = [A, b], u = [x; 1]``."""
    basis = _basis(prober, factor.parents)
    size = len(basis)

    def read(assignment: Values, shift: Values) -> dict[str, Any]:
        return prober.read({**prober.plain_values(), **assignment, **shift})[site.name]

    def given(assignment: Values) -> tuple[Array, Array]:
        origin = read(assignment, {})
        columns = [read(assignment, {n: v})["loc"] - origin["loc"] for n, v in basis]
        covariance = origin["covariance"]
        return jnp.stack([*columns, origin["loc"]], -1), at_each(site, covariance, 2)

    weight, covariance = by_states(prober, factor.selectors, given, site.positions)
    maps = jnp.broadcast_to(jnp.eye(size + 1, size), (*site.positions, size + 1, size))
    last = jnp.eye(size + 1)[size]
    return Regressor(
        known_regression(weight, covariance),
        maps,
        jnp.broadcast_to(last, (*site.positions, size + 1)),
    )


def find_gaussian(
    prober: Prober,
    site: Site,
    prior: RegressionPrior | Join | None,
    parents: tuple[str, ...],
    selectors: tuple[str, ...],
) -> GaussianConditional | None:
    """The Gaussian factor that the program agrees with at random points.

    :param prior: the block or the join that its parameters depend on.
    :param parents: the Gaussian sites that they depend on.
    :param selectors: the discrete sites that they depend on.
    """
    place = place_of(site)
    if not can_list(prober, selectors) or (prior is not None and len(selectors) > 1):
        return None
    sources = [Source()]
    if prior is not None:
        selector = selectors[0] if selectors else None
        found = sources_of(prober, place, prior, selector)
        sources = [source for source in found if source.offset == 0]
    for source in sources:
        factor = GaussianConditional(site.name, source, "value", parents, selectors)
        if prober.holds(partial(_agrees, prober, site, factor, _bound(prober, factor))):
            return factor
    return None


def _bound(prober: Prober, factor: GaussianConditional) -> Regressor:
    site = prober.sites[factor.site]
    return jax.jit(lambda: bind_regression(prober, site, factor))()


def _agrees(
    prober: Prober,
    site: Site,
    factor: GaussianConditional,
    bound: Regressor,
    values: Values,
    run: Found,
) -> bool:
    """Whether a run has the location and the covariance that a factor says."""
    place, known = place_of(site), bound.known
    holder: Any = prober.holder(factor.source.prior)
    index = assignment_at(prober, place, factor.selectors, values)
    weight, cov = (None, None) if holder is None else holder.pair(values)
    member = index
    if factor.source.gathered:
        member = np.asarray(gathered_members(prober, site, holder))
    if factor.source.gathered or factor.source.selector is not None:
        weight, cov = (None if p is None else p[member] for p in (weight, cov))
    if weight is None and known is not None:
        weight = entry_at(known.weight, index, place, 2)
    if cov is None and known is not None:
        cov = _known_at(known.covariance, index, place)
    x = _parents(prober, place, factor.parents, values)
    u = bound.constant + np.squeeze(bound.parent_map @ x[..., None], -1)
    loc = np.squeeze(weight @ np.asarray(u)[..., None], -1)
    return run.agrees(site.name, loc=loc, covariance=cov)


def _known_at(covariance: Array, index: np.ndarray, place: Place) -> np.ndarray:
    """A known covariance in the states of what picks from it, if anything does."""
    if covariance.ndim == 2:
        return np.asarray(covariance)
    states = covariance.shape[len(place.positions) : -2]
    index = index if math.prod(states) > 1 else np.zeros_like(index)
    return entry_at(covariance, index, place, 2)


def _parents(
    prober: Prober, place: Place, parents: tuple[str, ...], values: Values
) -> np.ndarray:
    """Values of the parents at the positions of a site, side by side."""
    parts = [np.zeros((*place.positions, 0))]
    for name in parents:
        found = read_at(values[name], place_of(prober.sites[name]), place, 1)
        size = prober.locals[name].size
        parts.append(np.broadcast_to(found, (*place.positions, size)))
    return np.concatenate(parts, -1)
