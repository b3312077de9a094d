# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Estimates of latent paths, smoothed as far as the data ask for it.

A step of a path is a difference of two states, and most of what it shows is noise where
the noise of the sensors is larger than the steps. Quadratics that are fitted to the
states nearby leave it out; how many states they see is found by leaving each of them
out in turn. A path that goes back and forth at every step looks like noise.
"""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.start.values import shown_counts

__all__ = ["local_quadratics", "smoothed"]

_REACHES = (2, 4, 6, 8, 12, 16)  # states on either side; 0 is as they are
_RIDGE = 1e-6


def smoothed(factors: ExpectedFactors, paths: dict[str, Array]) -> dict[str, Array]:
    """The same estimates, of which those of paths are smooth.

    :param factors: the factors.
    :param paths: estimates of latent vectors and paths, ``(*positions, D)``.
    """
    found = dict(paths)
    for name, path in paths.items():
        if factors.local(name).chain:
            weight = jnp.minimum(shown_counts(factors, name), 1.0)
            found[name] = local_quadratics(path, weight)
    return found


def local_quadratics(path: Array, weight: Array) -> Array:
    """A path ``(..., T, D)`` by quadratics of the states around each of its states.

    How far they reach is the same everywhere: half as far as what they say of a state
    that they have not seen is best. Where the dynamics change a path has kinks, and
    those are worth more than what is left of the noise.

    :param weight: how much each state counts, ``(..., T)``.
    """
    whole = jnp.ones((), path.dtype)
    best, least = path, jnp.inf * whole
    for reach in _REACHES:
        if 2 * reach >= path.shape[-2]:
            break
        unseen = _fitted(path, weight, reach, 0.0 * whole)
        error = jnp.sum(weight[..., None] * (path - unseen) ** 2)
        better = error < least
        narrower = _fitted(path, weight, max(reach // 2, 2), whole)
        best = jnp.where(better, narrower, best)
        least = jnp.where(better, error, least)
    return best


def _fitted(path: Array, weight: Array, reach: int, own: Array) -> Array:
    """Values of the quadratics where they are centred.

    :param own: how much the state that is there counts.
    """
    steps = path.shape[-2]
    shape = [(0, 0)] * (path.ndim - 2) + [(reach, reach)]
    seen = jnp.pad(weight, shape)
    shown = jnp.pad(path, [*shape, (0, 0)])
    gram: Any = jnp.zeros((*path.shape[:-1], 3, 3), path.dtype)
    moment: Any = jnp.zeros((*path.shape[:-1], 3, path.shape[-1]), path.dtype)
    for offset in range(2 * reach + 1):
        at = offset / reach - 1.0
        powers = jnp.array([1.0, at, at**2], path.dtype)
        counts = seen[..., offset : offset + steps]
        counts = counts * (own if offset == reach else 1.0)
        gram = gram + counts[..., None, None] * jnp.outer(powers, powers)
        value = counts[..., None] * shown[..., offset : offset + steps, :]
        moment = moment + powers[:, None] * value[..., None, :]
    gram = gram + _RIDGE * jnp.eye(3, dtype=path.dtype)
    return jnp.linalg.solve(gram, moment)[..., 0, :]
