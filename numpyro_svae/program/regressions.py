# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognises Gaussian sites that are linear regressions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.factors import GaussianFactor, Source
from numpyro_svae.program.joins import Join
from numpyro_svae.program.origins import elsewhere
from numpyro_svae.program.places import Place, place_of, read_at
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.probing import Found, Prober, shared_map
from numpyro_svae.program.sites import Program, Site
from numpyro_svae.program.sources import of_states, picked, sources_of

__all__ = [
    "covariance_members",
    "find_regression",
    "gathered_members",
    "is_linear",
    "known_at_states",
    "scanned_inputs",
]


def covariance_members(covariance: Array) -> Array:
    """Which members of a batch are seen in covariances at the plain values."""
    return jnp.round(covariance[..., 0, 0]).astype(jnp.int32) - 1


def gathered_members(prober: Prober, site: Site, holder: Any) -> Array:
    """Which member of a batch data pick at each position of a Gaussian site."""
    if not isinstance(holder, Join) or (holder.noise and holder.noise.components):
        plain = prober.read(prober.plain_values())[site.name]
        return jnp.broadcast_to(covariance_members(plain["covariance"]), site.positions)
    states = {
        name: jnp.zeros_like(prober.sites[name].value) + _distinct(local.size)
        for name, local in prober.locals.items()
        if not local.discrete
    }
    once = prober.regressor(site.name, holder, states)
    more = prober.regressor(site.name, holder, states, marked=True)
    batched = jnp.asarray(holder.batched_columns)
    best = jnp.argmax(jnp.where(batched, jnp.abs(once), -1.0), -1)[..., None]
    once, more = (jnp.take_along_axis(x, best, -1)[..., 0] for x in (once, more))
    seen = once != 0  # where nothing is seen of a member, any will do
    ratio = jnp.where(seen, more / jnp.where(seen, once, 1.0), 1.0)
    return jnp.broadcast_to(jnp.round(ratio).astype(jnp.int32) - 1, site.positions)


def _distinct(size: int) -> Array:
    """A vector whose entries do not cancel in a map by accident."""
    return jnp.sqrt(2.0 + jnp.arange(size))


def find_regression(
    prober: Prober,
    site: Site,
    holder: RegressionPrior | Join,
    selector: str | None,
    parent: str | None,
) -> GaussianFactor | None:
    """The factor ``N(v; F u, Sigma)``, if the program agrees with it at random points.

    :param prober: runs the program.
    :param site: the site of v.
    :param holder: the block or the join that its parameters depend on.
    :param selector: the discrete site that they depend on.
    :param parent: the Gaussian site that they depend on.
    """
    known = isinstance(holder, Join) and not holder.weights

    def regressor(prober: Prober, values: dict[str, Array]) -> Array:
        if not known:
            return prober.regressor(site.name, holder, values)
        return prober.read({**prober.plain_values(), **values})[site.name]["loc"]

    def maps(program: Program) -> Array:
        own = prober.at_arguments(program)
        return own.parent_map(str(parent), partial(regressor, own))

    matrix = None
    if parent is not None:
        matrix = _shared_map(prober, maps, fixed=not known)
        if matrix is None:
            return None
    place, origin = place_of(site), np.asarray(regressor(prober, {}))
    given = known_at_states(prober, site, selector, place)

    def agrees(source: Source, values: dict[str, Any], found: Found) -> bool:
        u = origin
        if parent is not None and matrix is not None:
            local = place_of(prober.sites[parent])
            u = u + read_at(values[parent] @ matrix.T, local, place, 1)
        weight, cov = holder.pair(values)
        index = None
        if source.selector is not None:
            index = picked(prober, place, source, values)
        elif source.gathered:
            index = gathered_members(prober, site, holder)
        if index is not None:
            weight, cov = (None if x is None else x[index] for x in (weight, cov))
        cov = given(source, values)["covariance"] if cov is None else cov
        if weight is not None:
            loc = np.squeeze(weight @ u[..., None], -1)
        else:
            loc = u if parent is not None else given(source, values)["loc"]
        return found.agrees(site.name, loc=loc, covariance=cov)

    parent_map = None if known else matrix
    for source in sources_of(prober, place, holder, selector):
        if prober.holds(partial(agrees, source)):
            return GaussianFactor(
                site.name, source, parent=parent, parent_map=parent_map
            )
    return None


def _shared_map(
    prober: Prober, maps: Callable[[Program], Array], fixed: bool = False
) -> Array | None:
    """The one matrix of all positions, whatever the arguments; None without one.

    :param maps: reads the matrices of all positions.
    :param fixed: whether it must be the same one for all arguments.
    """
    here, there = maps(prober.program), elsewhere(prober.program, maps)
    alike = shared_map(there) is not None
    if fixed:
        alike = alike and np.allclose(here[0], there[0], rtol=1e-4, atol=1e-5)
    return shared_map(here) if alike else None


def known_at_states(
    prober: Prober, site: Site, selector: str | None, place: Place
) -> Callable[[Source, dict[str, Any]], dict[str, Any]]:
    """What the program gives of a Gaussian site, in the states of its selector."""
    plain = prober.read(prober.plain_values())[site.name]
    if selector is None:
        return lambda source, values: plain
    names = {"loc": 1, "covariance": 2}
    tables = {name: prober.by_state(site.name, name, selector) for name in names}

    def at(source: Source, values: dict[str, Any]) -> dict[str, Any]:
        found = picked(prober, place, source, values)
        states = np.broadcast_to(found, place.positions)
        return {n: of_states(tables[n], states, names[n]) for n in names}

    return at


def is_linear(prober: Prober, site: Site, parent: str) -> bool:
    """Whether a site's location is affine in its parent, alike at all positions."""

    def read(prober: Prober, values: dict[str, Array]) -> Array:
        return prober.read({**prober.plain_values(), **values})[site.name]["loc"]

    def maps(program: Program) -> Array:
        own = prober.at_arguments(program)
        return own.parent_map(parent, partial(read, own))

    matrix = _shared_map(prober, maps)
    if matrix is None:
        return False
    origin, local = np.asarray(read(prober, {})), place_of(prober.sites[parent])

    def holds(values: dict[str, Any], found: Found) -> bool:
        shift = read_at(values[parent] @ matrix.T, local, place_of(site), 1)
        return found.agrees(site.name, loc=origin + shift)

    return prober.holds(holds)


def scanned_inputs(
    prober: Prober, site: Site, prior: Any, role: str = "transition"
) -> Array | None:
    """The inputs ``(..., T - 1, A)`` of a chain that a scan spells; None without any.

    A scan shows their effect on the mean of a state, and so the inputs themselves where
    the weights of the block are zero but for one.

    :param site: the site of the chain.
    :param prior: the block that holds its transitions.
    """
    chains = {n: c for scan in prober.program.scans for n, c in scan.chains.items()}
    moved = site.name in chains and chains[site.name].moved
    if not moved or role != "transition" or not isinstance(prior, RegressionPrior):
        return None

    def show(column: Array) -> Array:
        values = prober.plain_values(column)
        return prober.read(values)[site.name]["transition_matrix"][..., 0, -1]

    dim = prober.locals[site.name].size
    return jnp.moveaxis(jax.vmap(show)(jnp.arange(dim, prior.columns)), 0, -1)
