# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations of exponential families: sufficient statistics and base measures."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.factors import StatisticsFactor
from numpyro_svae.program.observations import observation_of
from numpyro_svae.program.places import place_of
from numpyro_svae.program.priors import Prior
from numpyro_svae.program.probing import parameters
from numpyro_svae.program.sites import Site

__all__ = ["BoundStatistics", "bind_statistics"]


class BoundStatistics(NamedTuple):
    """The data of one factor ``<t, statistics> + base``.

    :param statistics: in the container of the block's moments, with leaves
        ``(*positions, ...)``.
    :param base: log base measure, ``(*positions)``.
    :param members: which member of the block's batch each position uses.
    :param known: the moments t, where no block holds them.
    """

    statistics: Any
    base: Array
    members: Array | None
    known: Any


def bind_statistics(
    site: Site, factor: StatisticsFactor, priors: dict[str, Prior]
) -> BoundStatistics:
    """Read the statistics of an observed site, or of a part of an observed chain."""
    place = place_of(site, factor.role, factor.event_dim)
    value, fn = site.value, site.fn
    prior: Any = priors.get(str(factor.source.prior))
    nothing = jnp.zeros(place.positions)
    kind = observation_of(fn)
    if kind is not None:
        if site.mask is not None:
            value = _where(site.mask, value)
        statistics, base = kind.statistics(fn, value)
        if site.mask is not None and factor.event_dim:  # features may be missing
            statistics = jax.tree.map(partial(_where, site.mask), statistics)
            base = _where(site.mask, base)
        base = jnp.sum(base, tuple(range(len(place.positions), base.ndim)))
        members = None
        if factor.source.gathered:
            members = prior.members(parameters(site)[kind.parameter])
        return BoundStatistics(statistics, base, members, None)
    known = None
    probs = fn.initial_probs if factor.role == "initial" else fn.transition_probs
    size = probs.shape[-1]
    if prior is None:
        known = jnp.log(probs)
    if factor.role == "initial":
        return BoundStatistics(_one_hot(value[..., 0], size), nothing, None, known)
    earlier = value[..., :-1]
    statistics = _one_hot(value[..., 1:], size)
    if known is not None:
        row = jnp.take_along_axis(
            jnp.broadcast_to(known, (*place.positions, size, size)),
            earlier[..., None, None],
            -2,
        )
        return BoundStatistics(statistics, nothing, None, row[..., 0, :])
    return BoundStatistics(statistics, nothing, earlier, None)


def _where(mask: Array, value: Array) -> Array:
    mask = jnp.reshape(mask, jnp.shape(mask) + (1,) * (value.ndim - jnp.ndim(mask)))
    return jnp.where(mask, value, jnp.zeros_like(value))


def _one_hot(value: Array, size: int) -> Array:
    return jax.nn.one_hot(value, size)
