# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Hard clusters of data, for global posteriors to start at.

Positions of weight zero change nothing, however many there are: a batch may be padded
without moving the clusters.
"""

from __future__ import annotations

import jax
from jax import Array, lax, random
import jax.numpy as jnp

__all__ = ["scaled", "spread_components"]

_LLOYD_STEPS = 10


def scaled(x: Array, weight: Array) -> Array:
    """Values ``(..., D)`` with mean zero and total variance one.

    :param weight: of the positions, ``(...)``.
    """
    axes = tuple(range(weight.ndim))
    total = jnp.maximum(jnp.sum(weight), 1e-30)
    own = weight[..., None]
    centred = x - jnp.sum(own * x, axes) / total
    variance = jnp.sum(own * centred**2) / total
    return centred / jnp.sqrt(jnp.maximum(variance, 1e-30))


def spread_components(
    key: Array,
    v: Array,
    weight: Array,
    count: int,
    known: Array | None = None,
    used: Array | int | None = None,
) -> Array:
    """One-hot memberships ``(N, K)`` from k-means++ and a few Lloyd steps.

    :param key: random key.
    :param v: the data, ``(N, D)``.
    :param weight: how much each counts, ``(N,)``.
    :param count: K.
    :param known: members that are known, one-hot ``(N, K)``, and zeros elsewhere. They
        keep their clusters, whose first centres are their means.
    :param used: how many clusters may have other members; by default all of them.
    """
    seeds = random.split(key, count)
    labelled = jnp.zeros((len(v), count), v.dtype) if known is None else known
    sizes = jnp.sum(labelled * weight[:, None], 0)
    means = (labelled * weight[:, None]).T @ v / jnp.maximum(sizes, 1e-30)[:, None]
    given = sizes > 0
    free = given | (jnp.arange(count) < (count if used is None else used))
    first = jnp.where(
        jnp.any(given), means[jnp.argmax(given)], v[_choose(seeds[0], weight)]
    )
    centres = jnp.where(given[:, None], means, first)

    def distances(centres: Array) -> Array:
        cross = v @ centres.T
        squares = jnp.sum(v**2, -1)[:, None] - 2 * cross + jnp.sum(centres**2, -1)
        return jnp.where(free, squares, jnp.inf)

    def seed(index: Array, centres: Array) -> Array:
        nearest = jnp.maximum(jnp.min(distances(centres), -1), 0.0) * weight
        chosen = v[_choose(seeds[index], nearest)]
        return centres.at[index].set(jnp.where(given[index], centres[index], chosen))

    def member(centres: Array) -> Array:
        nearest = jnp.argmin(distances(centres), -1)
        own = jax.nn.one_hot(nearest, count, dtype=v.dtype)
        return jnp.where(jnp.any(labelled > 0, -1, keepdims=True), labelled, own)

    def lloyd(_: Array, centres: Array) -> Array:
        share = member(centres) * weight[:, None]
        size = jnp.sum(share, 0)[:, None]
        return jnp.where(size > 0, share.T @ v / jnp.maximum(size, 1e-30), centres)

    centres = lax.fori_loop(1, count, seed, centres)
    return member(lax.fori_loop(0, _LLOYD_STEPS, lloyd, centres))


def _choose(key: Array, weight: Array) -> Array:
    """A random position, drawn with one number whatever the positions are."""
    upto = jnp.cumsum(weight)
    goal = random.uniform(key, dtype=weight.dtype) * upto[-1]
    return jnp.minimum(jnp.searchsorted(upto, goal, side="right"), len(weight) - 1)
