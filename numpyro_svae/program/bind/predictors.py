# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Likelihoods of regressions that are not conjugate, averaged over their weights.

At each position such a likelihood is a function of a few predictors, which are affine
in the weights of global Gaussian blocks and so Gaussian under the guide. What is
expected of it, and with that its message to the weights, is an integral over the
predictors by cubature, however many weights there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import GaussianNatural
from numpyro_svae.program.bind.predictor_layout import Layout
from numpyro_svae.program.priors.gaussian_prior import ExpectedWeight, GaussianPrior
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods, Statics
from numpyro_svae.program.structure.linear_parts import Split, split_linear

__all__ = ["Average", "BoundPredictors", "bind_predictors"]

_NO_VARIANCE = 16  # units in the last place of what is left of a variance


class Average(Protocol):
    """How an expectation under a Gaussian is computed."""

    def points(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Points ``(S, D)`` and weights for a standard normal vector."""


class Predicted(NamedTuple):
    """The predictors at each position, at some weights.

    Those that all positions share come first.

    :param value: at the weights, ``(*positions, D)``.
    :param maps: their derivatives, ``(N, *positions, D)`` for the N entries of the
        weights of a block, by block.
    """

    value: Array
    maps: dict[str, Array]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays"],
    meta_fields=["site", "batch_rank", "blocks", "statics", "structure", "rule"],
)
@dataclass(frozen=True)
class BoundPredictors:
    """A likelihood of a regression, with its data.

    :param site: name of the observed site.
    :param batch_rank: how many dimensions its batch has.
    :param blocks: the blocks of its weights.
    :param arrays: those of the program.
    :param statics: what is no array in the program.
    :param structure: the wiring of the program.
    :param rule: how it is averaged over predictors.
    """

    site: str
    batch_rank: int
    blocks: tuple[GaussianPrior, ...]
    arrays: dict[int, Any]
    statics: Statics
    structure: Structure
    rule: Average | None

    event_dim = 0
    """How many dimensions of its values are no positions."""

    order: ClassVar[tuple[int, ...]] = ()
    """In which order predictors have the axes of the positions; empty for the same."""

    parent: ClassVar[str] = ""
    """The latent vector that it depends on beside its weights; empty for none."""

    def split(self) -> Split:
        """The log likelihood by position, as a function of the weights, in parts."""
        known = Likelihoods(self.statics, self.arrays, self.structure)

        def log_prob(*weights: Array) -> Array:
            return known.by_position(self.site, self.values(weights))

        return self.parts(log_prob)

    def values(self, weights: tuple[Array, ...]) -> dict[str, Array]:
        """The values of the sites, from the weights of all blocks."""
        found: dict[str, Array] = {}
        for block, weight in zip(self.blocks, weights):
            found |= block.values(weight)
        return found

    def parts(self, function: Callable[..., Array]) -> Split:
        """A function of the weights in parts."""
        shapes = ((*b.batch_shape, b.dim, b.columns) for b in self.blocks)
        return split_linear(function, [jnp.zeros(shape) for shape in shapes])

    def layout(self, split: Split) -> Layout:
        """How its predictors are put side by side."""
        shape = split.output_shape
        positions = shape[: len(shape) - self.event_dim]
        if self.order:
            positions = tuple(positions[axis] for axis in self.order)
        return Layout(split.predictor_shapes, positions)

    def predict(self, split: Split, weights: dict[str, Array]) -> Predicted:
        """The predictors, and how they depend on weights.

        :param split: the log likelihood.
        :param weights: by block, ``(*batch, D, M)``.
        """
        layout = self.layout(split)
        given = [weights[block.name] for block in self.blocks]
        value = layout.pack(split.predict(given))
        maps = {}
        for index, block in enumerate(self.blocks):
            shape, dtype = jnp.shape(given[index]), given[index].dtype

            def moved(weight: Array, index: int = index) -> Array:
                others = [*given[:index], weight, *given[index + 1 :]]
                return layout.pack(split.predict(others))

            units = jnp.eye(prod(shape), dtype=dtype).reshape(-1, *shape)
            along = jax.linearize(moved, given[index])[1]
            maps[block.name] = jax.vmap(along)(units)
        return Predicted(value, maps)

    def expected(self, moments: dict[str, ExpectedWeight]) -> Array:
        """The expected log likelihood, of the batch shape of the site.

        :param moments: of all blocks.
        """
        average = self.average(moments)
        return jnp.sum(average, tuple(range(self.batch_rank, average.ndim)))

    def average(self, moments: dict[str, ExpectedWeight]) -> Array:
        """What is expected at each position.

        :param moments: of all blocks.
        """
        split = self.split()
        layout = self.layout(split)
        means = {block.name: moments[block.name].mean for block in self.blocks}
        value, maps = self.predict(split, means)
        covariance = jnp.zeros((*value.shape, value.shape[-1]), value.dtype)
        for block in self.blocks:
            spread = _by_member(moments[block.name])
            own = maps[block.name].reshape(*spread.shape[:2], *value.shape)
            pairs = jnp.einsum("bm...d,bmk,bk...e->...de", own, spread, own)
            covariance = covariance + pairs
        rule: Any = self.rule
        points, weights = rule.points(value.shape[-1])
        tril = _root(covariance)
        moves = jnp.einsum("...de,se->s...d", tril, points.astype(value.dtype))

        def at(predictors: Array) -> Array:
            return split.finish(layout.unpack(predictors))

        found = jax.vmap(at)(value + moves)
        return jnp.tensordot(weights.astype(found.dtype), found, 1)

    def narrow(
        self,
        key: Array,
        name: str,
        prior: GaussianNatural,
        priors: dict[str, Any],
        scale: Any,
    ) -> GaussianNatural:
        """A block that starts at its prior mean, where predictors vary by about one.

        :param key: random key, for starts that are drawn.
        :param name: of the block.
        :param prior: natural parameters that it has without this likelihood.
        :param priors: those of all blocks.
        :param scale: of the site.
        """
        del key
        weights = {b.name: b.moments(priors[b.name]).mean for b in self.blocks}
        maps = self.predict(self.split(), weights).maps[name]
        size = prior.precision.shape[-1]
        own = maps.reshape(-1, size, *maps.shape[1:])
        scale = jnp.broadcast_to(scale, own.shape[2 : 2 + self.batch_rank])
        scale = jnp.expand_dims(scale, tuple(range(self.batch_rank - own.ndim + 2, 0)))
        seen = jnp.einsum("bm...,bk...->bmk", scale * own, own)
        precision = prior.precision + seen.reshape(prior.precision.shape)
        return GaussianNatural.from_mean(prior.moments().mean, precision)


def bind_predictors(
    program: Program,
    structure: Structure,
    sites: dict[str, Any],
    rule: Average | None = None,
) -> dict[str, BoundPredictors]:
    """The likelihoods of regressions that have data, by observed site.

    :param program: the program, with its parameters and plates fixed.
    :param structure: its wiring.
    :param sites: the sites of a run.
    :param rule: how they are averaged; None if they are not to be.
    """
    seen = {n: b for n, b in structure.predicted.items() if sites[n].observed}
    if not seen:
        return {}
    statics, arrays = Likelihoods.split(program)

    def bound(name: str, names: tuple[str, ...]) -> BoundPredictors:
        blocks: Any = tuple(structure.priors[block] for block in names)
        rank = len(sites[name].batch_shape)
        known = arrays, statics, structure, rule
        return BoundPredictors(name, rank, blocks, *known)

    return {name: bound(name, names) for name, names in seen.items()}


def _by_member(moments: ExpectedWeight) -> Array:
    """Covariances ``(B, N, N)`` of the parts of a weight that are independent."""
    mean, spread = moments
    if spread.ndim == mean.ndim + 1:  # rows
        return spread.reshape(-1, *spread.shape[-2:])
    size = prod(mean.shape[-2:])
    return spread.reshape(-1, size, size)


def _root(covariance: Array) -> Array:
    """The lower triangular root of covariances ``(..., D, D)``, which may be singular.

    A predictor that the others determine has a zero on the diagonal.
    """
    size, rest, columns = covariance.shape[-1], covariance, list[Array]()
    least = _NO_VARIANCE * jnp.finfo(covariance.dtype).eps
    for i in range(size):
        pivot = rest[..., i, i]
        varies = pivot > least * covariance[..., i, i]
        root = jnp.sqrt(jnp.where(varies, pivot, 1.0))[..., None]
        column = jnp.where(varies[..., None], rest[..., :, i] / root, 0.0)
        column = jnp.where(jnp.arange(size) < i, 0.0, column)
        rest = rest - column[..., :, None] * column[..., None, :]
        columns.append(column)
    return jnp.stack(columns, -1)
