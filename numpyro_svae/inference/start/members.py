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
import numpy as np

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.start.clusters import scaled, spread_components
from numpyro_svae.inference.start.regimes import recurrent_steps, regimes
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
    key: Array,
    kind: Kind,
    factors: ExpectedFactors,
    selector: str,
    paths: dict[str, Array],
) -> Array:
    """Memberships ``(*positions, K)`` from clusters of all that a site picks for.

    Where it hangs on the path whose steps it picks, it is found where which steps are.

    :param key: random key.
    :param kind: how many clusters, and how hard.
    :param factors: the factors.
    :param selector: the discrete site.
    :param paths: estimates of latent vectors and paths.
    """
    extent, size = factors.extent(selector), factors.local(selector).size
    step = recurrent_steps(factors.structure).get(selector)
    if step is not None and step.site in paths:
        told = known_members(factors, selector)
        return regimes(key, factors, step, paths[step.site], told)
    total, shown = jnp.zeros(extent.positions), list[Array]()
    for group in _alike(factors, selector):
        found = _features(factors, group, paths)
        if found is not None:
            features, count = found
            total, shown = total + count, [*shown, features]
    known = known_members(factors, selector)
    flat, rows = math.prod(extent.positions), jnp.zeros((*extent.positions, 0))
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
    return mixed.reshape(*extent.positions, size)


def guess_cells(
    key: Array,
    kind: Kind,
    factors: ExpectedFactors,
    factor: Factor,
    size: int,
    paths: dict[str, Array],
) -> Array:
    """Memberships ``(*positions, K)`` where several sites pick one of K members.

    Clusters of what the factor shows are members in any order: which sites pick which
    of them is found out with them.

    :param size: K.
    """
    extent, values = factors.extent(factor), values_of(factors, factor, paths)
    if values is None:
        return jnp.full((*extent.positions, size), 1.0 / size)
    shown, counts = shown_values(factors, factor, values), jnp.ones(extent.positions)
    if extent.mask is not None:
        counts = jnp.broadcast_to(1.0 * extent.mask, extent.positions)
    features = scaled(shown, counts).reshape(counts.size, -1)
    used = jnp.clip(jnp.round(jnp.asarray(kind.used) * size), 1, size)
    member = spread_components(key, features, counts.reshape(-1), size, None, used)
    alike = jnp.where(jnp.arange(size) < used, 1.0 / used, 0.0)
    mixed = (1 - kind.blur) * member + kind.blur * alike
    return mixed.reshape(*extent.positions, size)


def known_members(factors: ExpectedFactors, selector: str) -> Array | None:
    """One-hot memberships of the positions with a label; zeros elsewhere."""
    label = factors.structure.labels.get(selector)
    seen = factors.bound.seen.get(selector)
    if label is None or seen is None:
        return None
    site: Any = factors.site(label)
    extent = factors.extent(selector)
    size = factors.local(selector).size
    known = jnp.where(
        seen[..., None], jax.nn.one_hot(site.value, size, dtype=float), 0.0
    )
    return jnp.broadcast_to(known, (*extent.positions, size))


def _alike(factors: ExpectedFactors, selector: str) -> list[list[Factor]]:
    """The factors that a site picks components for, with those of the same ones.

    In a scan what the first state shows may be a site of its own.
    """
    found = dict[Any, list[Factor]]()
    for factor in factors.structure.factors:
        if factor.source.selector == selector:
            key = factor.form, factor.role, factor.source, factor.parents
            found.setdefault(key, []).append(factor)
    return list(found.values())


def _features(
    factors: ExpectedFactors, group: list[Factor], paths: dict[str, Array]
) -> tuple[Array, Array] | None:
    """What factors show at the positions of their selector, and how often.

    :param group: factors of the same components, whose features are the same.
    """
    seen = [(factor, _shown(factors, factor, paths)) for factor in group]
    seen = [(factor, parts) for factor, parts in seen if parts]
    if not seen:
        return None
    counts = [_counts(factors, factor) for factor, _ in seen]
    columns = [_scaled(list(own), counts) for own in zip(*(parts for _, parts in seen))]
    times, sums = jnp.zeros(()), jnp.zeros(())
    for (factor, _), count, *parts in zip(seen, counts, *columns):
        times = times + factors.to_selector(factor, jnp.ones((*count.shape, 1)))
        sums = sums + factors.to_selector(factor, jnp.concatenate(parts, -1))
    return sums / jnp.maximum(times, 1e-30), times[..., 0]


def _shown(
    factors: ExpectedFactors, factor: Factor, paths: dict[str, Array]
) -> list[Array]:
    """What a factor shows at its positions, by what is scaled together."""
    positions = factors.extent(factor).positions
    if factor.form == "statistics":
        data = factors.bound.statistics[factor.site, factor.role]
        leaves = jax.tree.leaves(data.statistics)
        return [jnp.concatenate([x.reshape(*positions, -1) for x in leaves], -1)]
    if factor.form == "regression" and factor.role == "transition":
        return changes_of(factors, factor, paths)
    if factor.form == "regression" and factor.role == "value":
        values = values_of(factors, factor, paths)
        return [] if values is None else [shown_values(factors, factor, values)]
    return []


def _counts(factors: ExpectedFactors, factor: Factor) -> Array:
    extent = factors.extent(factor)
    counts = jnp.ones(extent.positions)
    return counts if extent.mask is None else counts * extent.mask


def _scaled(values: list[Array], counts: list[Array]) -> list[Array]:
    """Values of several factors, scaled as those of one."""
    flat = [x.reshape(-1, x.shape[-1]) for x in values]
    whole = scaled(jnp.concatenate(flat), jnp.concatenate([c.ravel() for c in counts]))
    ends = np.cumsum([len(x) for x in flat])[:-1]
    return [x.reshape(v.shape) for x, v in zip(jnp.split(whole, ends), values)]
