# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Expected log likelihoods of what is not conjugate, under independent sites.

A likelihood may depend on several vectors, whose points are those of all side by side,
and on discrete sites, over whose states it is averaged exactly.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.gradient_messages import VectorMoments
from numpyro_svae.program.run.positions import Extent, read_at
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["Expectations"]

_IMPOSSIBLE = -1e6
"""A log likelihood that is none, and can be weighted by zero."""


@dataclass(frozen=True)
class Expectations:
    """Expected log likelihoods of a program.

    :param factors: the factors.
    :param likelihoods: the log likelihoods of the program.
    :param rule: the points that stand for a vector.
    """

    factors: ExpectedFactors
    likelihoods: Likelihoods
    rule: Rule

    def scope(self, sender: str) -> tuple[str, ...]:
        """The latent sites that a likelihood depends on, in program order."""
        structure = self.factors.structure
        used = structure.likelihoods[sender]
        return tuple(name for name in structure.locals if name in used)

    def stands(self, sender: str) -> bool:
        """Whether the points of a likelihood stand for an expectation in a bound."""
        return self.rule.is_product(self._dim(self.scope(sender)))

    def of(self, senders: Collection[str], moments: dict[str, Any]) -> dict[str, Array]:
        """Expected log likelihoods, per entry of the batch of each observed site.

        :param senders: the observed sites.
        :param moments: :class:`VectorMoments` of the vectors that they depend on, and
            probabilities ``(*positions, K)`` of the discrete sites.
        """
        together: dict[tuple[str, ...], list[str]] = {}
        for sender in senders:
            together.setdefault(self.scope(sender), []).append(sender)
        found: dict[str, Array] = {}
        for scope, names in together.items():
            tables = self._tables(scope, names, moments)
            states = [name for name in scope if self.factors.local(name).discrete]
            for name, table in tables.items():
                found[name] = self._averaged(name, states, table, moments)
        return found

    def _dim(self, scope: tuple[str, ...]) -> int:
        locals = map(self.factors.local, scope)
        return sum(local.size for local in locals if not local.discrete)

    def _tables(
        self, scope: tuple[str, ...], names: list[str], moments: dict[str, Any]
    ) -> dict[str, Array]:
        """Expectations over the vectors in each assignment of the discrete sites.

        All positions are at the same point at once: the expectation of a sum over them
        knows nothing of how they hang together.

        :return: by observed site, ``(G, *positions)`` with the assignments leading.
        """
        factors = self.factors
        states = [name for name in scope if factors.local(name).discrete]
        vectors = {n: moments[n] for n in scope if n not in states}
        sizes = [factors.local(name).size for name in states]
        grid = jnp.stack([jnp.ravel(g) for g in jnp.indices(sizes)], -1) if sizes else 0
        extra = self._extra(states)

        def at(point: Array, assignment: Array) -> dict[str, Array]:
            values = _at_point(vectors, point)
            for name, state in zip(states, assignment if states else ()):
                values[name] = jnp.full(factors.extent(name).positions, state)
            return self.likelihoods.at(names, values, extra)

        def over_states(point: Array) -> dict[str, Array]:
            if states:
                return jax.vmap(lambda assignment: at(point, assignment))(grid)
            return jax.tree.map(lambda value: value[None], at(point, jnp.zeros(())))

        dtype = jnp.result_type(*(part.mean for part in vectors.values()))
        points, weights = self.rule.points(self._dim(scope))
        values = jax.vmap(over_states)(jnp.asarray(points, dtype))
        known = jnp.asarray(weights, dtype)
        return jax.tree.map(lambda value: jnp.tensordot(known, value, 1), values)

    def _extra(self, states: list[str]) -> int:
        return max((self.factors.extent(name).extra for name in states), default=0)

    def _averaged(
        self, sender: str, states: list[str], table: Array, moments: dict[str, Any]
    ) -> Array:
        """A table averaged over discrete sites, per entry of the batch."""
        if not states:
            return table[0]
        sizes = [self.factors.local(name).size for name in states]
        table = jnp.where(table == -jnp.inf, _IMPOSSIBLE, table)
        table = jnp.moveaxis(table, 0, -1)
        positions, site = table.shape[:-1], self.factors.site(sender)
        extent = Extent(tuple(site.batch_shape), positions, None, site.scale)
        table = jnp.reshape(table, (*positions, *sizes))
        for name in reversed(states):  # the last state is the last axis
            probs = read_at(moments[name], self.factors.extent(name), extent, 1)
            missing = tuple(range(-(table.ndim - len(positions)), -1))
            table = jnp.sum(table * jnp.expand_dims(probs, missing), -1)
        return jnp.sum(table, tuple(range(len(site.batch_shape), table.ndim)))


def _at_point(vectors: dict[str, VectorMoments], point: Array) -> dict[str, Array]:
    """Vectors side by side at a point of a standard normal distribution."""
    values, start = {}, 0
    for name, (mean, tril) in vectors.items():
        end = start + mean.shape[-1]
        values[name] = mean + tril @ point[start:end]
        start = end
    return values
