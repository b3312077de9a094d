# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The covariance of a Gaussian factor that one block holds, or several by entry."""

from __future__ import annotations

from dataclasses import dataclass
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
    :param blocks: of the parts, in program order. They have a batch all or none.
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
        """How many members the batch has; None without a batch."""
        return self.blocks[0].components

    def unit_noise(self) -> dict[str, Any]:
        """Values of the sites at which all covariances are one."""
        return {n: v for block in self.blocks for n, v in block.unit_noise().items()}

    def covariance_at(self, values: dict[str, Any]) -> Any:
        """Covariance ``(..., D, D)``, from values by site."""
        parts = zip(self.blocks, self.entries)
        return sum(
            self._placed(block.covariance_at(values, len(own)), own)
            for block, own in parts
        )

    def noise(self, found: dict[str, Any], entries: Array | None) -> ExpectedNoise:
        """Moments of the covariance.

        :param found: moments of the blocks, by name.
        :param entries: which entries of the response count, ``(..., D)``, where all
            noise is diagonal; None for all.
        """
        covariance, log_det = jnp.zeros(()), jnp.zeros(())
        for block, own in zip(self.blocks, self.entries):
            count = None if entries is None else entries[..., np.array(own)]
            part = block.noise(found[block.name], len(own), count)
            covariance = covariance + self._placed(part.covariance, own)
            log_det = log_det + part.log_det
        return ExpectedNoise(covariance, log_det)

    def part(self, block: NoisePrior, covariance: Array) -> Array:
        """What a block has of a covariance ``(..., D, D)``."""
        own = np.array(self.entries[self.blocks.index(block)])
        return covariance[..., own, :][..., own]

    def _placed(self, covariance: Any, own: tuple[int, ...]) -> Any:
        if len(self.blocks) == 1:
            return covariance
        place = np.eye(self.dim, dtype=covariance.dtype)[:, np.array(own)]
        return place @ covariance @ place.T
