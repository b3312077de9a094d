# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The mean-field optimum of a categorical site and the Gaussian sites it selects.

Block coordinate ascent alternates ``q(x)`` given the probabilities of ``z`` and
``q(z)`` given the moments of ``x``. Each position is a fixed point of its own in the
logits of ``z``, found by iteration; its gradient is that of the implicit function
theorem, so it neither depends on the path nor costs memory for it (Bendekgey, Hope and
Sudderth, *Unbiased learning of deep generative models with structured discrete
representations*, NeurIPS 2023, section 3).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.nn import softmax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
import optimistix

from numpyro_svae.inference.messages import GaussianMessage
from numpyro_svae.potentials import GaussianPotential

__all__ = ["SelectedState", "mean_field_logits", "state_given_probs"]

_MAX_SWEEPS = 200


class SelectedState(NamedTuple):
    """A Gaussian site at one position, by state K of the site that selects it.

    :param loc: of the components, ``(..., K, D)``.
    :param precision: of the components, ``(..., K, D, D)``.
    :param offset: log density of each component at its location, ``(..., K)``.
    :param info: what else is said of the site, ``(..., K, D)``.
    :param information: likewise, ``(..., K, D, D)``.
    :param constant: likewise, ``(..., K)``.
    """

    loc: Array
    precision: Array
    offset: Array
    info: Array
    information: Array
    constant: Array

    @classmethod
    def of(
        cls,
        prior: GaussianMessage,
        potential: GaussianPotential,
        constant: Array,
        batch: tuple[int, ...],
    ) -> SelectedState:
        """Gather what is said of a site, all with the batch ``(*positions, K)``."""
        tril = jnp.linalg.cholesky(prior.covariance)
        dim = tril.shape[-1]
        identity = jnp.broadcast_to(jnp.eye(dim, dtype=tril.dtype), tril.shape)
        half_log_det = jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
        log_peak = prior.offset - half_log_det - 0.5 * dim * jnp.log(2 * jnp.pi)
        return cls(
            jnp.broadcast_to(prior.loc, (*batch, dim)),
            jnp.broadcast_to(cho_solve((tril, True), identity), (*batch, dim, dim)),
            jnp.broadcast_to(log_peak, batch),
            jnp.broadcast_to(potential.info_vector, (*batch, dim)),
            jnp.broadcast_to(potential.full_precision(), (*batch, dim, dim)),
            jnp.broadcast_to(constant, batch),
        )

    def log_prior(self, mean: Array, covariance: Array) -> Array:
        """Expected log density under each component, ``(..., K)``."""
        shift = mean[..., None, :] - self.loc
        second = covariance[..., None, :, :] + shift[..., :, None] * shift[..., None, :]
        return self.offset - 0.5 * jnp.sum(self.precision * second, (-1, -2))

    def said(self, mean: Array, covariance: Array) -> Array:
        """Expectation of all else that is said of the site, ``(..., K)``."""
        second = covariance + mean[..., :, None] * mean[..., None, :]
        quadratic = jnp.einsum("...kij,...ij->...k", self.information, second)
        linear = jnp.einsum("...ki,...i->...k", self.info, mean)
        return linear - 0.5 * quadratic + self.constant


def state_given_probs(state: SelectedState, probs: Array) -> tuple[Array, Array, Array]:
    """``q(x)`` given the probabilities of ``z``.

    :return: mean, covariance, and divergence from the averaged expected prior.
    """
    total = state.precision + state.information
    pull = state.info + jnp.einsum("...kij,...kj->...ki", state.precision, state.loc)
    precision = jnp.einsum("...k,...kij->...ij", probs, total)
    tril = jnp.linalg.cholesky(precision)
    dim = tril.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(dim, dtype=tril.dtype), tril.shape)
    covariance = cho_solve((tril, True), identity)
    mean = jnp.einsum("...ij,...kj,...k->...i", covariance, pull, probs)
    half_log_det = jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
    negative_entropy = half_log_det - 0.5 * dim * (1 + jnp.log(2 * jnp.pi))
    log_prior = jnp.sum(probs * state.log_prior(mean, covariance), -1)
    return mean, covariance, negative_entropy - log_prior


def mean_field_logits(logits: Array, states: list[SelectedState]) -> Array:
    """Logits of ``q(z)`` at the mean-field optimum.

    :param logits: all that is said of ``z`` without the states, ``(*positions, K)``.
    :param states: what is said of each state that it selects.
    :return: logits of shape ``(*positions, K)``, differentiable implicitly.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    count = logits.ndim - 1

    def flatten(leaf: Array) -> Array:
        return leaf.reshape(flat.shape[0], *leaf.shape[count:])

    solve = jax.vmap(_fixed_point)
    return solve(flat, jax.tree.map(flatten, states)).reshape(logits.shape)


def _joint_logits(logits: Array, states: list[SelectedState]) -> Array:
    """Logits of ``z`` under the exact joint, where coordinate ascent starts.

    From the prior, states would start at the average of all components, and the ascent
    could end at a component next to that average, far from what is said of the state.
    """
    alone = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    for part in states:
        mean, covariance, kl = jax.vmap(partial(state_given_probs, part))(alone)
        said = jnp.diagonal(jax.vmap(part.said)(mean, covariance))
        logits = logits + said - kl
    return logits


def _fixed_point(logits: Array, states: list[SelectedState]) -> Array:
    def sweep(current: Array, said: tuple[Array, list[SelectedState]]) -> Array:
        total, parts = said
        probs = softmax(current)
        for part in parts:
            mean, covariance, _ = state_given_probs(part, probs)
            total = total + part.log_prior(mean, covariance)
            total = total + part.said(mean, covariance)
        return total - jnp.max(total)

    tolerance = 1e-10 if logits.dtype == jnp.float64 else 1e-5
    start = sweep(_joint_logits(logits, states), (logits, states))
    solution: Any = optimistix.fixed_point(
        sweep,
        optimistix.FixedPointIteration(rtol=tolerance, atol=tolerance),
        jax.lax.stop_gradient(start),
        (logits, states),
        max_steps=_MAX_SWEEPS,
        throw=False,
    )
    return solution.value
