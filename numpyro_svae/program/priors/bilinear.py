# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Locations that multiply weights of several blocks, as in matrix factorisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.program.priors.gaussian_prior import GaussianPrior
from numpyro_svae.program.priors.joined_noises import JoinedNoises

__all__ = ["Bilinear", "entries_of"]

Location = Callable[[dict[str, Any]], Array]


def entries_of(block: GaussianPrior) -> int:
    """Number of entries of one member of a weight."""
    return block.dim * block.columns


@dataclass(frozen=True, eq=False)
class Bilinear:
    """``N(k + sum_b A_b u_b + sum_{b < c} u_b' B_bc u_c, s sigma^2)`` of numbers.

    u_b is a member of the batch of a block, which data pick, and all of k, A, B and s
    are known. It is linear in each block given the others.

    :param name: of it, made of its factor's site.
    :param weights: the Gaussian blocks, in program order.
    :param noise: the block of the variance; None if that is known.
    :param pairs: indices of the blocks that are multiplied, b < c.
    :param alike: which of these have the same B at all positions.
    """

    name: str
    weights: tuple[GaussianPrior, ...]
    noise: JoinedNoises | None
    pairs: tuple[tuple[int, int], ...] = ()
    alike: tuple[bool, ...] = ()

    @property
    def blocks(self) -> tuple[Any, ...]:
        """All blocks in it."""
        return self.weights + (() if self.noise is None else self.noise.blocks)

    @property
    def multiplied(self) -> frozenset[str]:
        """Names of the blocks that are multiplied by others."""
        return frozenset(self.weights[i].name for pair in self.pairs for i in pair)

    def values(self, entries: Any, marks: Any = None) -> dict[str, Any]:
        """Values of the sites of which all members are the same.

        :param entries: of each block, ``(N,)``.
        :param marks: what they are multiplied by, ``(G,)`` for each block; None for 1.
        """
        found = dict[str, Any]()
        for index, block in enumerate(self.weights):
            weight = entries[index].reshape(block.dim, block.columns)
            weight = jnp.broadcast_to(weight, (*block.batch_shape, *weight.shape))
            if marks is not None and block.batch_shape:
                weight = weight * marks[index][:, None, None]
            found |= block.values(weight)
        return found

    def zeros(self) -> list[Array]:
        """Entries of zero."""
        return [jnp.zeros(entries_of(block)) for block in self.weights]

    def slope(self, location: Location, index: int, at: list[Array]) -> Array:
        """The derivatives in the entries of a block, ``(N, *positions)``."""

        def moved(own: Array) -> Array:
            return location(self.values([*at[:index], own, *at[index + 1 :]]))

        along = jax.linearize(moved, at[index])[1]
        return jax.vmap(along)(jnp.eye(at[index].size))

    def product(
        self,
        location: Location,
        pair: tuple[int, int],
        look: Callable[[Array], Any] = lambda rows: rows,
    ) -> Any:
        """The derivatives in the entries of two blocks, ``(N, M, *positions)``.

        :param look: what is wanted of those in one entry of the first block, ``(M,
            *positions)``, of which there may be too many to keep all.
        """
        first, second = pair
        at = self.zeros()

        def moved(own: Array) -> Array:
            given = [*at[:first], own, *at[first + 1 :]]
            return self.slope(location, second, given)

        along = jax.linearize(moved, at[first])[1]
        return lax.map(lambda unit: look(along(unit)), jnp.eye(at[first].size))

    def members(self, location: Location, index: int) -> Array:
        """Which member of a block each position has, ``(*positions)``.

        All entries of all blocks are different numbers, and those of the block are
        multiplied by one more than the last digits of its members, and the first ones.
        """
        at = [jnp.sqrt(2.0 + jnp.arange(entries_of(b)) + i) for i, b in self._numbered]
        count = self.weights[index].components or 1
        base = math.isqrt(count - 1) + 1
        own = jnp.arange(count)

        def moved(mark: Array) -> Array:
            marks: list[Any] = [
                jnp.ones(block.components or 1) for block in self.weights
            ]
            marks[index] = mark
            return location(self.values(at, marks))

        along = jax.linearize(moved, jnp.ones(count))[1]
        once = along(jnp.ones(count))
        seen = once != 0  # where nothing is seen of a member, any will do
        first, last = (
            jnp.round(along(1.0 + digit) / jnp.where(seen, once, 1.0)) - 1
            for digit in (own // base, own % base)
        )
        found = jnp.where(seen, first * base + last, 0.0).astype(jnp.int32)
        return jnp.clip(found, 0, count - 1)

    @property
    def _numbered(self) -> list[tuple[int, GaussianPrior]]:
        return list(enumerate(self.weights))
