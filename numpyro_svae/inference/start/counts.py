# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the posteriors of probabilities and rates start."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import DirichletNatural, NaturalParameters
from numpyro_svae.program.places import Place

__all__ = ["add_statistics", "spread_counts"]


def add_statistics(
    prior: Any, statistics: Any, members: Array, place: Place
) -> NaturalParameters:
    """The prior updated by the statistics of the members of each component.

    :param statistics: in the container of the moments, ``(*positions, ...)``.
    :param members: memberships ``(*positions, K)``.
    :param place: where they are.
    """
    share = weighted(members, place)
    axes = tuple(range(len(place.positions)))

    def total(leaf: Array) -> Array:
        return jnp.tensordot(share, leaf, (axes, axes))

    return prior + prior.pull_back(jax.tree.map(total, statistics))


def spread_counts(
    prior: DirichletNatural, place: Place, used: Array | float
) -> DirichletNatural:
    """Counts of all data, divided as the prior expects among what is used.

    :param used: which categories are, ``(K,)``.
    """
    number: Array | int = math.prod(place.positions)
    if place.mask is not None:
        number = jnp.sum(jnp.broadcast_to(place.mask, place.positions))
    count = number * place.scale / math.prod(prior.batch_shape)
    open_ = prior.concentration * used
    share = open_ / jnp.sum(open_, -1, keepdims=True)
    return DirichletNatural(prior.concentration + count * share)


def weighted(members: Array, place: Place) -> Array:
    """Memberships ``(*positions, K)`` times the weight of each position."""
    members = jnp.broadcast_to(members, (*place.positions, members.shape[-1]))
    weight = jnp.ones(()) if place.mask is None else 1.0 * place.mask
    return members * (weight * place.scale)[..., None]
