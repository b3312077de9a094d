# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors of data side by side, each of which moves by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.datum_bounds import Datum
from numpyro_svae.inference.local.gradient_messages import VectorMoments
from numpyro_svae.inference.local.lane_solves import whiten
from numpyro_svae.inference.local.sweep_messages import between, chosen
from numpyro_svae.potentials import GaussianPotential

__all__ = ["Lanes", "Point", "Seen"]


class Point(NamedTuple):
    """What the posteriors of the vectors follow from.

    :param probs: of the discrete sites.
    :param means: of the vectors, where those inferred before them need them.
    :param told: what factors that are not conjugate say of them.
    """

    probs: dict[str, Array]
    means: dict[str, Array]
    told: dict[str, GaussianPotential]


class Seen(NamedTuple):
    """What is known at a point.

    :param goal: where it is sent.
    :param bound: of each datum.
    :param moments: of the sites.
    """

    goal: Point
    bound: Array
    moments: dict[str, Any]


@dataclass(frozen=True)
class Lanes:
    """Data side by side.

    :param factors: the factors.
    :param datum: the data.
    """

    factors: ExpectedFactors
    datum: Datum

    def _at(self, name: str, value: Array) -> Array:
        return self.datum.at_positions(self.factors, name, value)

    def _each(self, function: Callable, value: Array, *by_site: dict[str, Any]) -> dict:
        """A function of a value of each datum, and of what there is of each site."""
        found = {}
        for name in by_site[0]:
            part = partial(function, self._at(name, value))
            found[name] = jax.tree.map(part, *(own[name] for own in by_site))
        return found

    def towards(self, point: Point, goal: Point, rate: Array) -> Point:
        """A point that is a part of the way to its goal."""
        move = partial(self._each, between, rate)
        return Point(*map(move, point, goal))

    def chosen(self, take: Array, new: tuple, old: tuple) -> tuple[Point, Seen]:
        """What is known of the data at one point or at another."""

        choose = partial(self._each, chosen, take)
        (point, seen), (before, known) = new, old
        goal = Point(*map(choose, seen.goal, known.goal))
        bound = jnp.where(take, seen.bound, known.bound)
        moments = choose(seen.moments, known.moments)
        return Point(*map(choose, point, before)), Seen(goal, bound, moments)

    def far(self, old: dict[str, Any], new: dict[str, Any]) -> Array:
        """How far posteriors of each datum are from others.

        It is in probabilities, and in standard deviations of the vectors.
        """
        found = {}
        for name, before in old.items():
            if self.factors.local(name).discrete:
                far = jnp.max(jnp.abs(new[name] - before), -1)
            else:
                far = _distance(before, new[name])
            extent = self.factors.extent(name)
            if extent.mask is not None:
                far = jnp.where(extent.mask, far, 0.0)
            axes = tuple(range(far.ndim - extent.extra, far.ndim))
            found[name] = jnp.max(far, axes)
        return self.datum.largest(found)


def _distance(old: VectorMoments, new: VectorMoments) -> Array:
    """Of two Gaussians at each position, zero where there is no variance."""
    move = whiten(old.tril, (new.mean - old.mean)[..., None])
    spread = whiten(old.tril, new.tril)
    change = spread @ jnp.swapaxes(spread, -1, -2) - jnp.eye(spread.shape[-1])
    both = jnp.concatenate([move, change], -1)
    return jnp.max(jnp.abs(jnp.where(jnp.isfinite(both), both, 0.0)), (-2, -1))
