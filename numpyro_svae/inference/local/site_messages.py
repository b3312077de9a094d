# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What sites hear of likelihoods that are not conjugate, by kind of site.

The message to a discrete site is the gradient of an expectation in the probabilities of
its states: the expected log likelihood of each, as logits.
"""

from __future__ import annotations

from typing import Any, Protocol

from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.local import gradient_messages
from numpyro_svae.inference.local.gradient_messages import VectorMoments
from numpyro_svae.potentials import CategoricalPotential, GaussianPotential
from numpyro_svae.program.run.positions import Extent
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.factors import Local

__all__ = ["SiteMessages", "messages_of"]


class SiteMessages(Protocol):
    """The messages to sites of a kind."""

    def moments(self, marginal: Any, extent: Extent) -> Any:
        """What expectations need of a marginal distribution."""

    def message(self, moments: Any, gradient: Any) -> Any:
        """The potential that has the gradient of an expectation in the moments."""

    def remains(self, moments: Any, message: Any, goal: Any) -> Array:
        """How far a potential is from its goal, ``(*positions)``."""

    def narrowing(self, moments: Any) -> Any:
        """A potential that makes a prior twice as narrow, if there is such."""

    def nothing(self, local: Local, extent: Extent) -> Any:
        """The potential that says nothing."""


class _ToVectors:
    def moments(self, marginal: Any, extent: Extent) -> VectorMoments:
        return gradient_messages.moments_of(marginal, extent.positions)

    def message(
        self, moments: VectorMoments, gradient: VectorMoments
    ) -> GaussianPotential:
        return gradient_messages.message_of(moments, gradient)

    def remains(
        self,
        moments: VectorMoments,
        message: GaussianPotential,
        goal: GaussianPotential,
    ) -> Array:
        return gradient_messages.remains(moments, message, goal)

    def narrowing(self, moments: VectorMoments) -> GaussianPotential:
        return gradient_messages.narrowing(moments)

    def nothing(self, local: Local, extent: Extent) -> GaussianPotential:
        shape = *extent.positions, local.size
        return GaussianPotential(jnp.zeros(shape), jnp.zeros((*shape, local.size)))


class _ToStates:
    def moments(self, marginal: Any, extent: Extent) -> Array:
        probs = peel(marginal)[0].probs
        return jnp.broadcast_to(probs, (*extent.positions, probs.shape[-1]))

    def message(self, moments: Array, gradient: Array) -> CategoricalPotential:
        del moments
        return CategoricalPotential(gradient - jnp.max(gradient, -1, keepdims=True))

    def remains(
        self, moments: Array, message: CategoricalPotential, goal: CategoricalPotential
    ) -> Array:
        """In the metric of the Fisher information, as for vectors."""

        def size(logits: Array) -> Array:
            mean = jnp.sum(moments * logits, -1, keepdims=True)
            return jnp.sqrt(jnp.sum(moments * (logits - mean) ** 2, -1))

        return size(goal.logits - message.logits) / (1.0 + size(goal.logits))

    def narrowing(self, moments: Array) -> CategoricalPotential:
        return CategoricalPotential(jnp.zeros_like(moments))

    def nothing(self, local: Local, extent: Extent) -> CategoricalPotential:
        return CategoricalPotential(jnp.zeros((*extent.positions, local.size)))


_TO_VECTORS, _TO_STATES = _ToVectors(), _ToStates()


def messages_of(local: Local) -> SiteMessages:
    """The messages to a local site."""
    return _TO_STATES if local.discrete else _TO_VECTORS
