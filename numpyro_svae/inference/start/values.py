# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Estimates of latent vectors and paths, before anything has been inferred."""

from __future__ import annotations

import math
from typing import Any

from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import Extent, clean, pull_to, read_at
from numpyro_svae.program.structure.factors import Factor

__all__ = [
    "changes_of",
    "estimate_paths",
    "shown_counts",
    "shown_values",
    "turned",
    "values_of",
]


def estimate_paths(
    factors: ExpectedFactors, potentials: dict[str, Any]
) -> dict[str, Array]:
    """Estimates ``(*positions, D)`` of the latent vectors and paths that are shown.

    They are what the recognition function says, or else what a known loading shows, or
    the principal coordinates of the data, which have unit variance.

    :param factors: the factors.
    :param potentials: what the recognition function says.
    """
    found: dict[str, Array] = {}
    for name, local in factors.structure.locals.items():
        if local.discrete:
            continue
        if name in potentials:
            found[name] = _potential_mean(potentials[name])
            continue
        shown = _showing(factors, name)
        if shown:
            found[name] = _shown_mean(factors, name, shown)
    return found


def shown_counts(factors: ExpectedFactors, name: str) -> Array:
    """How much is seen of each position of a latent vector or path."""
    local, total = factors.extent(name), jnp.zeros(())
    for factor in _showing(factors, name):
        extent, weight = factors.extent(factor), _weights(factors, factor)
        counted = extent._replace(mask=None, scale=local.scale)
        total = total + pull_to(weight, local, counted, 0)
    return jnp.broadcast_to(total, local.positions)


def _showing(factors: ExpectedFactors, name: str) -> list[Any]:
    """The first observed factor of a latent vector, and those that are like it.

    In a scan the first state of a path may be observed by a site of its own.
    """
    structure, found = factors.structure, list[Any]()

    def like(factor: Any) -> tuple:
        width = factors.bound.regressions[factor.site, "value"].value.shape[-1:]
        return structure.blocks_of(factor), factor.selectors, factor.parents, width

    for factor in structure.factors:
        if name in factor.parents and factors.site(factor.site).observed:
            if not found or like(factor) == like(found[0]):
                found.append(factor)
    return found


def _weights(factors: ExpectedFactors, factor: Factor) -> Array:
    """Whether the positions of a factor count."""
    extent = factors.extent(factor)
    ones = jnp.ones(extent.positions)
    return ones if extent.mask is None else ones * extent.mask


def _potential_mean(potential: GaussianPotential) -> Array:
    """The means of potentials; nearly zero where there is no message."""
    precision = potential.full_precision()
    ridge = 1e-6 * jnp.eye(precision.shape[-1], dtype=precision.dtype)
    loc = jnp.linalg.solve(precision + ridge, potential.info_vector[..., None])
    return loc[..., 0]


def _shown_mean(factors: ExpectedFactors, name: str, shown: list[Any]) -> Array:
    """Averages of what some factors show, or their principal coordinates."""
    local, size = factors.extent(name), factors.local(name).size
    if _is_placed(factors, shown[0]):
        pairs = [_placed(factors, name, factor) for factor in shown]
    else:
        pairs = _unplaced(factors, name, shown)
    count = sum((count for _, count in pairs), jnp.zeros(()))
    total: Any = sum((x * n[..., None] for x, n in pairs), jnp.zeros(()))
    mean = total / jnp.maximum(count, 1.0)[..., None]
    if not _is_placed(factors, shown[0]):
        mean = _principal(mean, count, size)
    return jnp.broadcast_to(mean, (*local.positions, size))


def _seen(factors: ExpectedFactors, factor: Any) -> Array:
    """The responses of an observed factor, zero where they do not count."""
    extent, value = factors.extent(factor), _data(factors, factor).value
    return clean(extent, jnp.broadcast_to(value, extent.positions + value.shape[-1:]))


def _data(factors: ExpectedFactors, factor: Any) -> Any:
    return factors.bound.regressions[factor.site, "value"]


def _placed(factors: ExpectedFactors, name: str, factor: Any) -> tuple[Array, Array]:
    """What a factor with a known loading shows of a vector, and how often."""
    known, size = _data(factors, factor).known, factors.local(name).size
    if factor.selectors:
        known = jnp.mean(known, tuple(range(-2 - len(factor.selectors), -2)))
    loading, rest = known[..., :size], known[..., size:]
    shown = _least_squares(loading, _seen(factors, factor) - jnp.sum(rest, -1))
    weight = _weights(factors, factor)
    return _averaged(shown, weight, factors.extent(name), factors.extent(factor))


def _unplaced(
    factors: ExpectedFactors, name: str, shown: list[Any]
) -> list[tuple[Array, Array]]:
    """What factors show of a vector in the coordinates of the data, and how often."""
    local = factors.extent(name)
    parts = []
    for factor in shown:
        data, v = _data(factors, factor), _seen(factors, factor)
        own = data.to_block(v, data.regressor, len(factor.selectors))
        parts.append((*own, _weights(factors, factor)))
    return [
        _at_parent(residual, weight, local, factors.extent(factor))
        for factor, residual, (*_, weight) in zip(shown, _without(parts), parts)
    ]


def _is_placed(factors: ExpectedFactors, factor: Factor) -> bool:
    """Whether a known loading says what the coordinates of a parent mean."""
    if not factor.parents or not factors.site(factor.site).observed:
        return False
    data = factors.bound.regressions[factor.site, "value"]
    return data.known is not None and data.all_known and len(factor.parents) == 1


def turned(
    key: Array, factors: ExpectedFactors, paths: dict[str, Array]
) -> dict[str, Array]:
    """Estimates of latent vectors and paths in other coordinates, where any will do.

    Principal coordinates are one choice of many, and lead to one optimum of several.

    :param key: random key of the rotations.
    :param factors: the factors.
    :param paths: what :func:`estimate_paths` found, of the data alone.
    """
    all_of_them = factors.structure.factors
    placed = {n for f in all_of_them if _is_placed(factors, f) for n in f.parents}
    found = dict(paths)
    for index, name in enumerate(sorted(set(paths) - placed)):
        own, size = random.fold_in(key, index), paths[name].shape[-1]
        found[name] = paths[name] @ random.orthogonal(own, size)
    return found


def _least_squares(weight: Array, v: Array) -> Array:
    """The shortest x with the least ``|weight x - v|``."""
    return (jnp.linalg.pinv(weight) @ v[..., None])[..., 0]


def _without(parts: list[tuple[Array, Array, Array]]) -> list[Array]:
    """What known regressors leave unexplained, zero where nothing counts.

    :param parts: responses, regressors and weights; the regression is one of all.
    """
    columns = parts[0][1].shape[-1]
    if not columns:
        return [v * weight[..., None] for v, _, weight in parts]
    gram, moment, seen = jnp.zeros(()), jnp.zeros(()), []
    for v, regressor, weight in parts:
        u = jnp.broadcast_to(regressor, (*v.shape[:-1], columns)) * weight[..., None]
        flat, response = u.reshape(-1, columns), v.reshape(-1, v.shape[-1])
        gram, moment = gram + flat.T @ flat, moment + flat.T @ response
        seen.append((v * weight[..., None], u))
    gram = gram + 1e-6 * (1e-6 + jnp.trace(gram)) * jnp.eye(columns)
    offset = jnp.linalg.solve(gram, moment)
    return [v - u @ offset for v, u in seen]


def _at_parent(
    v: Array, weight: Array, local: Extent, extent: Extent
) -> tuple[Array, Array]:
    """Responses ``(*local.positions, F)`` and weights at the positions of a parent.

    Positions that a factor has and its parent has not are features of the parent's.
    """
    seen = read_at(jnp.zeros((*local.positions, 1)), local, extent, 1).shape[:-1]
    rank = len(extent.positions)
    seen = (1,) * (rank - len(seen)) + tuple(seen)
    more = [i for i in range(rank) if seen[i] == 1 < extent.positions[i]]
    own = [i for i in range(rank) if i not in more]
    if more and math.prod(seen) == math.prod(local.positions):
        features = jnp.transpose(v, (*own, *more, rank))
        shape = (*local.positions, -1)
        return features.reshape(shape), jnp.sum(weight, tuple(more)).reshape(shape[:-1])
    return _averaged(v, weight, local, extent)


def _averaged(
    v: Array, weight: Array, local: Extent, extent: Extent
) -> tuple[Array, Array]:
    """Means at the positions of a parent, zero where nothing counts; and weights."""
    counted = extent._replace(mask=None, scale=local.scale)
    count = pull_to(weight, local, counted, 0)
    total = pull_to(v * weight[..., None], local, counted, 1)
    return total / jnp.maximum(count, 1.0)[..., None], count


def _principal(x: Array, weight: Array, size: int) -> Array:
    """Principal coordinates ``(..., D)``, of variance one or of none."""
    total = jnp.maximum(jnp.sum(weight), 1.0)
    flat, own = x.reshape(-1, x.shape[-1]), weight.reshape(-1, 1)
    centred = (flat - jnp.sum(own * flat, 0) / total) * jnp.minimum(own, 1.0)
    values, vectors = jnp.linalg.eigh(centred.T @ centred / total)
    rank = min(size, x.shape[-1])
    largest = values[-1]
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    usable = values > 1e-6 * largest
    scale = jnp.where(usable, 1.0 / jnp.sqrt(jnp.where(usable, values, 1.0)), 0.0)
    found = jnp.pad(centred @ vectors * scale, ((0, 0), (0, size - rank)))
    return found.reshape(*x.shape[:-1], size)


# what factors see


def values_of(
    factors: ExpectedFactors, factor: Factor, paths: dict[str, Array]
) -> Array | None:
    """The responses of a factor: data, or an estimate of a latent site."""
    if factors.site(factor.site).observed:
        return factors.bound.regressions[factor.site, factor.role].value
    return paths.get(factor.site) if factor.role == "value" else None


def shown_values(factors: ExpectedFactors, factor: Factor, values: Array) -> Array:
    """Responses at all positions of a factor, zero where they do not count."""
    extent = factors.extent(factor)
    shape = (*extent.positions, values.shape[-1])
    return clean(extent, jnp.broadcast_to(values, shape))


def changes_of(
    factors: ExpectedFactors, factor: Factor, paths: dict[str, Array]
) -> list[Array]:
    """The states before each step of a chain, and the steps.

    States alone would not do: dynamics that differ may cross the same region.
    """
    site = factors.site(factor.site)
    path = site.value if site.observed else paths.get(factor.site)
    if path is None:
        return []
    return [path[..., :-1, :], path[..., 1:, :] - path[..., :-1, :]]
