# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Hard clusters of data, for global posteriors to start at."""

from __future__ import annotations

import jax
from jax import Array, lax, random
import jax.numpy as jnp

__all__ = ["spread_components"]

_LLOYD_STEPS = 10


def spread_components(
    key: Array, v: Array, weight: Array, count: int, known: Array | None
) -> Array:
    """One-hot memberships ``(N, K)`` from k-means++ and a few Lloyd steps.

    Positions with a known member keep it, and their means are the first centres.
    """
    seeds = random.split(key, count)
    labelled = jnp.zeros((len(v), count), v.dtype) if known is None else known
    sizes = jnp.sum(labelled * weight[:, None], 0)
    means = (labelled * weight[:, None]).T @ v / jnp.maximum(sizes, 1e-30)[:, None]
    given = sizes > 0
    first = v[random.categorical(seeds[0], jnp.log(weight + 1e-30))]
    first = jnp.where(jnp.any(given), means[jnp.argmax(given)], first)
    centres = jnp.where(given[:, None], means, first)

    def distances(centres: Array) -> Array:
        cross = v @ centres.T
        return jnp.sum(v**2, -1)[:, None] - 2 * cross + jnp.sum(centres**2, -1)

    def seed(index: Array, centres: Array) -> Array:
        nearest = jnp.maximum(jnp.min(distances(centres), -1), 0.0) * weight
        chosen = v[random.categorical(seeds[index], jnp.log(nearest + 1e-30))]
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
