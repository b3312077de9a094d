# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The parameters of a Gaussian factor that independent blocks hold, or the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import block_diag
import numpy as np

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.families.matrices import inverse_from_tril
from numpyro_svae.program.priors.gaussian_prior import ExpectedWeight, GaussianPrior
from numpyro_svae.program.priors.joined_noises import JoinedNoises
from numpyro_svae.program.priors.noise_priors import ExpectedNoise

__all__ = ["Join", "nothing_learnt"]


@dataclass(frozen=True)
class Join:
    """``(F, Sigma)`` of a factor: weights side by side, and noises of its entries.

    It stands where a joint prior of both would. What no block holds is known.

    :param name: of the join, made of its factor's site and role.
    :param dim: D, the dimension of the response.
    :param weights: the blocks of F, in program order; none if it is known.
    :param noise: the blocks of Sigma; None if it is known.
    """

    name: str
    dim: int
    weights: tuple[GaussianPrior, ...]
    noise: JoinedNoises | None

    @property
    def blocks(self) -> tuple[Any, ...]:
        """All blocks in it."""
        return self.weights + (() if self.noise is None else self.noise.blocks)

    @property
    def has_noise(self) -> bool:
        """Whether a block holds Sigma."""
        return self.noise is not None

    @property
    def components(self) -> int | None:
        """How many members the batch has; None without a batch."""
        return next((b.components for b in self.blocks if b.components), None)

    @property
    def columns(self) -> int:
        """M, the number of regressors."""
        return sum(block.columns for block in self.weights)

    @property
    def batched_columns(self) -> tuple[bool, ...]:
        """Which columns are of a weight with a batch."""
        return tuple(
            block.components is not None
            for block in self.weights
            for _ in range(block.columns)
        )

    @property
    def features(self) -> tuple[int, ...]:
        """The event dimensions of an observation that one member covers."""
        return ()

    def plain_values(self, column: Any = 0, marked: bool = False) -> dict[str, Any]:
        """Values of the weights that copy a regressor to entry 0 of the response.

        :param column: the regressor.
        :param marked: whether to multiply it by one more than the member's index.
        """
        values, first = dict[str, Any](), 0
        for block in self.weights:
            count = block.components if marked else None
            size = 1.0 if count is None else 1.0 + np.arange(count)
            values.update(block.plain_values(column - first, size))
            first += block.columns
        return values

    def unit_noise(self) -> dict[str, Any]:
        """Values with a weight of zero, at which all covariances are one."""
        values = self.plain_values(-1)
        return values if self.noise is None else values | self.noise.unit_noise()

    def pair(self, values: dict[str, Any]) -> tuple[Any, Any]:
        """The weight ``(..., D, M)``, and the covariance; None if that is known."""
        batch = () if self.components is None else (self.components,)
        parts = [block.weight(values[block.name]) for block in self.weights]
        parts = [np.broadcast_to(p, (*batch, *p.shape[-2:])) for p in parts]
        weight = np.concatenate([np.zeros((*batch, self.dim, 0)), *parts], -1)
        cov = None
        if self.noise is not None:
            cov = self.noise.covariance_at(values)
            cov = np.broadcast_to(cov, (*batch, self.dim, self.dim))
        return weight, cov

    def moments(
        self,
        by_block: dict[str, Any],
        known: ExpectedNoise | None,
        members: Array | None,
        entries: Array | None = None,
    ) -> ExpectedRegression:
        """Centred moments of the factor; see :class:`ExpectedRegression`.

        With :math:`P = E[\\Sigma^{-1}]` and independent F, the excess is
        :math:`\\sum_{ij} P_{ij} Cov(F_{i \\cdot}, F_{j \\cdot})`.

        :param by_block: moments of the blocks.
        :param known: the covariance, where the program gives it.
        :param members: which member of the batch each position uses.
        :param entries: which entries of the response count, ``(..., D)``; None for all.
            The noise is diagonal then.
        """
        found = {b.name: self._picked(b, by_block, members) for b in self.blocks}
        noise: Any = known
        if self.noise is not None:
            noise = self.noise.noise(found, entries)
        if not self.weights:
            return nothing_learnt(noise)
        parts = [found[block.name] for block in self.weights]
        weight, excess = _side_by_side(parts, noise.covariance, entries)
        return _alike(
            ExpectedRegression(weight, noise.covariance, excess, noise.log_det)
        )

    def _picked(self, block: Any, by_block: dict[str, Any], members: Any) -> Any:
        found = by_block[block.name]
        if members is None or block.components is None:
            return found
        return jax.tree.map(lambda leaf: leaf[members], found)


def nothing_learnt(noise: ExpectedNoise) -> ExpectedRegression:
    """The factor of a weight without columns."""
    covariance, log_det = noise
    empty = jnp.zeros((*covariance.shape[:-1], 0), covariance.dtype)
    excess = jnp.zeros((*covariance.shape[:-2], 0, 0), covariance.dtype)
    return ExpectedRegression(empty, covariance, excess, log_det)


def _side_by_side(
    parts: list[ExpectedWeight], covariance: Array, entries: Array | None
) -> tuple[Any, Any]:
    """The mean ``(..., D, M)`` of all weights, and the excess ``(..., M, M)``."""
    precision = inverse_from_tril(jnp.linalg.cholesky(covariance))
    means = [part.mean for part in parts]
    if entries is not None:
        precision = jnp.where(entries[..., None], precision, 0.0)
        means = [jnp.where(entries[..., None], mean, 0.0) for mean in means]
    pieces = [_excess(part, precision) for part in parts]
    batch = jnp.broadcast_shapes(*(mean.shape[:-2] for mean in means))
    means = [jnp.broadcast_to(mean, (*batch, *mean.shape[-2:])) for mean in means]
    if len(pieces) == 1:
        return means[0], pieces[0]
    batch = jnp.broadcast_shapes(*(p.shape[:-2] for p in pieces))
    diagonal = block_diag
    for _ in batch:
        diagonal = jax.vmap(diagonal)
    widened = [jnp.broadcast_to(p, (*batch, *p.shape[-2:])) for p in pieces]
    return jnp.concatenate(means, -1), diagonal(*widened)


def _excess(part: ExpectedWeight, precision: Array) -> Array:
    if part.spread.ndim == part.mean.ndim + 1:
        diagonal = jnp.diagonal(precision, axis1=-2, axis2=-1)
        return jnp.einsum("...i,...imn->...mn", diagonal, part.spread)
    return jnp.einsum("...ij,...imjn->...mn", precision, part.spread)


def _alike(regression: ExpectedRegression) -> ExpectedRegression:
    """All moments with the same batch."""
    ranks = (2, 2, 2, 0)
    batch = jnp.broadcast_shapes(
        *(x.shape[: x.ndim - rank] for x, rank in zip(regression, ranks))
    )
    return ExpectedRegression(
        *(
            jnp.broadcast_to(x, batch + x.shape[x.ndim - rank :])
            for x, rank in zip(regression, ranks)
        )
    )
