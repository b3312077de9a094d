# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How the predictors of a regression are put side by side at each position."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np

__all__ = ["Layout"]


class Layout(NamedTuple):
    """How predictors are put side by side at each position.

    :param shapes: of the predictors, in the order of the function.
    :param positions: of the function.
    """

    shapes: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]

    @property
    def is_shared(self) -> np.ndarray:
        """Which of the predictors of a position all positions share, ``(D,)``."""
        shared = [not self._is_apart(self.shapes[i]) for i in self.order]
        return np.repeat(shared, [self.sizes[i] for i in self.order])

    def _is_apart(self, shape: tuple[int, ...]) -> bool:
        return shape[: len(self.positions)] == self.positions

    @property
    def order(self) -> list[int]:
        """Indices of the predictors, those that all positions share first."""
        indices = range(len(self.shapes))
        return sorted(indices, key=lambda i: self._is_apart(self.shapes[i]))

    @property
    def sizes(self) -> list[int]:
        """How many numbers each has at a position, in the order of the function."""
        rank = len(self.positions)
        return [prod(s[rank:] if self._is_apart(s) else s) for s in self.shapes]

    def pack(self, predictors: list[Array]) -> Array:
        """The predictors side by side, ``(*positions, D)``."""
        parts = []
        for index in self.order:
            size = self.sizes[index]
            if self._is_apart(self.shapes[index]):
                parts.append(predictors[index].reshape(*self.positions, size))
            else:
                shape = (*self.positions, size)
                parts.append(jnp.broadcast_to(predictors[index].reshape(-1), shape))
        return jnp.concatenate(parts, -1)

    def unpack(self, packed: Array) -> list[Array]:
        """The predictors, from all of them side by side."""
        found: dict[int, Array] = {}
        start = 0
        for index in self.order:
            own = packed[..., start : start + self.sizes[index]]
            start += self.sizes[index]
            if not self._is_apart(self.shapes[index]):
                own = own[(0,) * len(self.positions)]
            found[index] = own.reshape(self.shapes[index])
        return [found[index] for index in range(len(self.shapes))]
