# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the posteriors of probabilities and rates start, and known members."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import DirichletNatural, NaturalParameters
from numpyro_svae.inference.clustering import spread_components
from numpyro_svae.program.binding import Bound
from numpyro_svae.program.factors import Factor, StatisticsFactor, Structure
from numpyro_svae.program.places import Place, place_of
from numpyro_svae.program.sites import Site

__all__ = ["fit_statistics", "known_members", "labels_of", "spread_counts"]


def labels_of(factor: Factor, structure: Structure, bound: Bound) -> Site | None:
    """The site of the known labels of what picks from a block."""
    label = structure.labels.get(str(factor.source.selector))
    return None if label is None else bound.sites[label]


def fit_statistics(
    key: Array,
    prior: Any,
    factor: StatisticsFactor,
    structure: Structure,
    bound: Bound,
) -> NaturalParameters:
    """The prior updated by the statistics of clusters of the observations."""
    data = bound.statistics[factor.site, factor.role]
    place = place_of(bound.sites[factor.site], factor.role, factor.event_dim)
    count, rank = math.prod(place.positions), len(place.positions)
    leaves = jax.tree.map(
        lambda leaf: leaf.reshape(count, *leaf.shape[rank:]), data.statistics
    )
    weight = jnp.ones(()) if place.mask is None else 1.0 * place.mask
    weight = jnp.broadcast_to(weight, place.positions).reshape(-1)
    shown = [leaf.reshape(count, -1) for leaf in jax.tree.leaves(leaves)]
    features, members = jnp.concatenate(shown, -1), prior.batch_shape[0]
    known = known_members(
        labels_of(factor, structure, bound), place, members, features.dtype
    )
    member = spread_components(key, features, weight, members, known)
    share = member * (weight * place.scale)[:, None]

    def total(leaf: Array) -> Array:
        return jnp.tensordot(share, leaf, (0, 0))

    return prior + prior.pull_back(jax.tree.map(total, leaves))


def spread_counts(prior: DirichletNatural, place: Place) -> DirichletNatural:
    """Counts of all data, divided as the prior expects."""
    rows = math.prod(prior.batch_shape)
    count = math.prod(place.positions) * place.scale / rows
    total = jnp.sum(prior.concentration, -1, keepdims=True)
    return DirichletNatural(prior.concentration * (1.0 + count / total))


def known_members(
    labels: Site | None, place: Place, count: int, dtype: Any
) -> Array | None:
    """One-hot memberships ``(N, K)`` of the positions with a label; zeros elsewhere."""
    if labels is None or labels.mask is None:
        return None
    known = jax.nn.one_hot(labels.value, count, dtype=dtype)
    known = jnp.where(labels.mask[..., None], known, 0.0)
    return jnp.broadcast_to(known, (*place.positions, count)).reshape(-1, count)
