# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Guesses of which component each position belongs to.

All that a discrete site picks components for is clustered together, so that the blocks
of its components start at the same clusters.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.evidence import Evidence
from numpyro_svae.inference.start.clusters import scaled, spread_components
from numpyro_svae.inference.start.values import changes_of, shown_values, values_of
from numpyro_svae.program.structure.factors import Factor

__all__ = ["Kind", "guess_cells", "guess_members", "known_members"]


class Kind(NamedTuple):
    """In what guesses differ.

    :param used: the share of the components that have data.
    :param blur: how far clusters are mixed with all data: 0 leaves them as they are,
        at 1 all components are alike.
    """

    used: Array | float = 1.0
    blur: Array | float = 0.0


def guess_members(
    key: Array, kind: Kind, evidence: Evidence, selector: str, paths: dict[str, Array]
) -> Array:
    """Memberships ``(*positions, K)`` from clusters of all that a site picks for.

    :param key: random key.
    :param kind: how many clusters, and how hard.
    :param evidence: the factors.
    :param selector: the discrete site.
    :param paths: estimates of latent vectors and paths.
    """
    place, size = evidence.place(selector), evidence.local(selector).size
    total, shown = jnp.zeros(place.positions), list[Array]()
    for factor in evidence.structure.factors:
        if factor.source.selector == selector:
            found = _features(evidence, factor, paths)
            if found is not None:
                features, count = found
                total, shown = total + count, [*shown, features]
    known = known_members(evidence, selector)
    flat, rows = math.prod(place.positions), jnp.zeros((*place.positions, 0))
    features = jnp.concatenate([rows, *shown], -1).reshape(flat, -1)
    used = jnp.clip(jnp.round(jnp.asarray(kind.used) * size), 1, size)
    member = spread_components(
        key,
        features,
        total.reshape(-1),
        size,
        None if known is None else known.reshape(flat, size),
        used,
    )
    alike = jnp.where(jnp.arange(size) < used, 1.0 / used, 0.0)
    mixed = (1 - kind.blur) * member + kind.blur * alike
    if known is not None:
        mixed = jnp.where(jnp.any(known > 0, -1).reshape(-1, 1), member, mixed)
    return mixed.reshape(*place.positions, size)


def guess_cells(
    key: Array,
    kind: Kind,
    evidence: Evidence,
    factor: Factor,
    size: int,
    paths: dict[str, Array],
) -> Array:
    """Memberships ``(*positions, K)`` where several sites pick one of K members.

    Clusters of what the factor shows are members in any order: which sites pick which
    of them is found out with them.

    :param size: K.
    """
    place, values = evidence.place(factor), values_of(evidence, factor, paths)
    if values is None:
        return jnp.full((*place.positions, size), 1.0 / size)
    shown, counts = shown_values(evidence, factor, values), jnp.ones(place.positions)
    if place.mask is not None:
        counts = jnp.broadcast_to(1.0 * place.mask, place.positions)
    features = scaled(shown, counts).reshape(counts.size, -1)
    used = jnp.clip(jnp.round(jnp.asarray(kind.used) * size), 1, size)
    member = spread_components(key, features, counts.reshape(-1), size, None, used)
    alike = jnp.where(jnp.arange(size) < used, 1.0 / used, 0.0)
    mixed = (1 - kind.blur) * member + kind.blur * alike
    return mixed.reshape(*place.positions, size)


def known_members(evidence: Evidence, selector: str) -> Array | None:
    """One-hot memberships of the positions with a label; zeros elsewhere."""
    label = evidence.structure.labels.get(selector)
    seen = evidence.bound.seen.get(selector)
    if label is None or seen is None:
        return None
    site: Any = evidence.site(label)
    place = evidence.place(selector)
    size = evidence.local(selector).size
    known = jnp.where(
        seen[..., None], jax.nn.one_hot(site.value, size, dtype=float), 0.0
    )
    return jnp.broadcast_to(known, (*place.positions, size))


def _features(
    evidence: Evidence, factor: Factor, paths: dict[str, Array]
) -> tuple[Array, Array] | None:
    """What a factor shows at the positions of its selector, and how often."""
    place = evidence.place(factor)
    if factor.form == "statistics":
        data = evidence.bound.statistics[factor.site, factor.role]
        leaves = jax.tree.leaves(data.statistics)
        parts = [jnp.concatenate([x.reshape(*place.positions, -1) for x in leaves], -1)]
    elif factor.form == "regression" and factor.role == "transition":
        parts = changes_of(evidence, factor, paths)
    elif factor.form == "regression" and factor.role == "value":
        values = values_of(evidence, factor, paths)
        parts = [] if values is None else [shown_values(evidence, factor, values)]
    else:
        parts = []
    if not parts:
        return None
    ones = jnp.ones((*place.positions, 1))
    counts = jnp.ones(place.positions)
    if place.mask is not None:
        counts = jnp.broadcast_to(1.0 * place.mask, place.positions)
    features = jnp.concatenate([scaled(part, counts) for part in parts], -1)
    times = evidence.to_selector(factor, ones)
    sums = evidence.to_selector(factor, features)
    return sums / jnp.maximum(times, 1e-30), times[..., 0]
