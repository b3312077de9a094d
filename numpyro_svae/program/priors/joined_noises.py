# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The covariance of a Gaussian factor that one block holds, or several by entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.priors.noise_priors import ExpectedNoise, NoisePrior

__all__ = ["JoinedNoises"]


@dataclass(frozen=True)
class JoinedNoises:
    """A covariance of independent parts, each of which a block holds.

    :param dim: D, the dimension of the response.
    :param blocks: of the parts, in program order. Those with a batch have the same.
    :param entries: which entries of the response each has, all D together.
    """

    dim: int
    blocks: tuple[NoisePrior, ...]
    entries: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, block: NoisePrior, dim: int) -> JoinedNoises:
        """The noise of one block."""
        return cls(dim, (block,), (tuple(range(dim)),))

    @property
    def components(self) -> int | None:
        """How many members the batches have; None without a batch."""
        return next((b.components for b in self.blocks if b.components), None)

    @property
    def batched_entry(self) -> int:
        """An entry of the response whose noise is picked, where there is a batch."""
        pairs = zip(self.blocks, self.entries)
        return next(own[0] for block, own in pairs if block.components)

    def unit_noise(self) -> dict[str, Any]:
        """Values of the sites at which all covariances are one."""
        return {n: v for block in self.blocks for n, v in block.unit_noise().items()}

    def covariance_at(self, values: dict[str, Any]) -> Any:
        """Covariance ``(..., D, D)``, from values by site."""
        return self._joined(
            block.covariance_at(values, len(own))
            for block, own in zip(self.blocks, self.entries)
        )

    def noise(self, found: dict[str, Any], entries: Array | None) -> ExpectedNoise:
        """Moments of the covariance.

        :param found: moments of the blocks, by name.
        :param entries: which entries of the response count, ``(..., D)``, where all
            noise is diagonal; None for all.
        """
        parts = [
            block.noise(found[block.name], len(own), self._own(entries, own))
            for block, own in zip(self.blocks, self.entries)
        ]
        covariance = self._joined(part.covariance for part in parts)
        return ExpectedNoise(covariance, reduce(add, (p.log_det for p in parts)))

    def part(self, block: NoisePrior, covariance: Array) -> Array:
        """What a block has of a covariance ``(..., D, D)``."""
        own = self.entries[self.blocks.index(block)]
        rows = self._own(jnp.swapaxes(covariance, -1, -2), own)
        return self._own(jnp.swapaxes(rows, -1, -2), own)

    def _own(self, values: Any, own: tuple[int, ...]) -> Any:
        """Some entries of the last axis."""
        if values is None or len(self.blocks) == 1:
            return values
        return values[..., np.array(own)]

    def _joined(self, covariances: Iterable[Any]) -> Any:
        """The covariance of all entries, from those of each block."""
        if len(self.blocks) == 1:
            return next(iter(covariances))
        places = (np.eye(self.dim, dtype=np.float32)[:, own] for own in self.entries)
        placed = (p @ cov @ p.T for p, cov in zip(places, covariances))
        return reduce(add, placed)
