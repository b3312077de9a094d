# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations of exponential families: sufficient statistics and base measures."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import gammaln
import numpyro.distributions as dist

from numpyro_svae.program.factors import StatisticsFactor
from numpyro_svae.program.places import place_of
from numpyro_svae.program.priors import DirichletPrior, Prior
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
    place, value, fn = place_of(site, factor.role), site.value, site.fn
    prior = priors.get(str(factor.source.prior))
    nothing = jnp.zeros(place.positions)
    known = None
    if factor.role == "value":
        probs = parameters(site)["probs"]
        members = None
        if factor.source.gathered and isinstance(prior, DirichletPrior):
            members = prior.members(probs)
        if isinstance(fn, dist.MultinomialProbs | dist.MultinomialLogits):
            base = gammaln(jnp.sum(value, -1) + 1.0) - jnp.sum(gammaln(value + 1.0), -1)
            return BoundStatistics(1.0 * value, base, members, known)
        one_hot = _one_hot(value, probs.shape[-1])
        return BoundStatistics(one_hot, nothing, members, known)
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


def _one_hot(value: Array, size: int) -> Array:
    return jax.nn.one_hot(value, size)
