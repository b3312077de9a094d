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

__all__ = ["changes_of", "estimate_paths", "shown_values", "turned", "values_of"]


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
        for factor in factors.structure.factors:
            if name in factor.parents and factors.site(factor.site).observed:
                found[name] = _shown_mean(factors, name, factor)
                break
    return found


def _potential_mean(potential: GaussianPotential) -> Array:
    """The means of potentials; nearly zero where there is no message."""
    precision = potential.full_precision()
    ridge = 1e-6 * jnp.eye(precision.shape[-1], dtype=precision.dtype)
    loc = jnp.linalg.solve(precision + ridge, potential.info_vector[..., None])
    return loc[..., 0]


def _shown_mean(factors: ExpectedFactors, name: str, factor: Any) -> Array:
    extent, data = (
        factors.extent(factor),
        factors.bound.regressions[factor.site, "value"],
    )
    v = clean(
        extent, jnp.broadcast_to(data.value, extent.positions + data.value.shape[-1:])
    )
    local = factors.extent(name)
    size = factors.local(name).size
    weight = jnp.ones(extent.positions)
    if extent.mask is not None:
        weight = weight * extent.mask
    if _is_placed(factors, factor):
        known: Any = data.known
        if factor.selectors:
            known = jnp.mean(known, tuple(range(-2 - len(factor.selectors), -2)))
        loading, rest = known[..., :size], known[..., size:]
        shown = _least_squares(loading, v - jnp.sum(rest, -1))
        return _averaged(shown, weight, local, extent)[0]
    v, regressor = data.to_block(v, data.regressor, len(factor.selectors))
    residual = _without(v, regressor, weight)
    shown, count = _at_parent(residual, weight, local, extent)
    return jnp.broadcast_to(_principal(shown, count, size), (*local.positions, size))


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


def _without(v: Array, regressor: Array, weight: Array) -> Array:
    """What known regressors leave unexplained, zero where nothing counts."""
    columns = regressor.shape[-1]
    if not columns:
        return v * weight[..., None]
    u = jnp.broadcast_to(regressor, (*v.shape[:-1], columns)) * weight[..., None]
    flat, response = u.reshape(-1, columns), v.reshape(-1, v.shape[-1])
    gram = flat.T @ flat
    gram = gram + 1e-6 * (1e-6 + jnp.trace(gram)) * jnp.eye(columns)
    offset = jnp.linalg.solve(gram, flat.T @ response)
    return v * weight[..., None] - u @ offset


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
