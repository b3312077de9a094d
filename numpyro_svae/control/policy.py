# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Policies whose actions are linear in the state, with Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
import numpyro.distributions as dist

from numpyro_svae.control.latent_agent import Policy
from numpyro_svae.control.linear_steps import LinearSteps
from numpyro_svae.control.tracker import gaussian_path
from numpyro_svae.forecasting.filter import FilterState

__all__ = ["LinearGaussianPolicy", "Occupancy", "occupancy", "policy_kl"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearGaussianPolicy(Policy):
    """Actions ``a_t ~ N(gain_t x_t + offset_t, covariance_t)``; a pytree.

    A :class:`LatentAgent` draws them at the mean of what is known of the state.

    :param gain: ``(T, A, D)``.
    :param offset: ``(T, A)``.
    :param covariance: ``(T, A, A)``.
    """

    gain: Array
    offset: Array
    covariance: Array

    @classmethod
    def blind(
        cls, horizon: int, dim: int, covariance: Array, offset: Array | float = 0.0
    ) -> LinearGaussianPolicy:
        """Actions that do not look at the state, to begin with.

        :param horizon: number T of steps.
        :param dim: dimension D of the state.
        :param covariance: of the actions, ``(A, A)`` or ``(T, A, A)``.
        :param offset: their mean, ``(A,)``, ``(T, A)`` or a number.
        """
        covariance = jnp.asarray(covariance, float)
        count = covariance.shape[-1]
        return cls(
            jnp.zeros((horizon, count, dim), covariance.dtype),
            jnp.broadcast_to(jnp.asarray(offset, covariance.dtype), (horizon, count)),
            jnp.broadcast_to(covariance, (horizon, count, count)),
        )

    @property
    def horizon(self) -> int:
        """Number T of steps."""
        return self.offset.shape[0]

    def __call__(self, x: Array, step: Array | int) -> dist.MultivariateNormal:
        """The distribution of the action ``(A,)`` in a state.

        :param x: the state, ``(D,)``; where it is not known, the mean of the belief.
        :param step: which of the T steps it is; from the last one on, the last.
        """
        step = jnp.minimum(step, self.horizon - 1)
        mean = self.gain[step] @ x + self.offset[step]
        return dist.MultivariateNormal(mean, self.covariance[step])

    def begin(self) -> Array:
        """The number of steps so far."""
        return jnp.zeros((), int)

    def act(
        self, key: Array, belief: FilterState, memory: Array
    ) -> tuple[Array, Array]:
        """An action of the step, drawn."""
        _, marginal = gaussian_path(belief)
        return self(marginal.mean[0], memory).sample(key), memory + 1


class Occupancy(NamedTuple):
    """Means and covariances of ``[x_t; a_t]`` under a policy, and of the last state.

    :param mean: ``(T, D + A)``.
    :param covariance: ``(T, D + A, D + A)``.
    :param last_mean: ``(D,)``.
    :param last_covariance: ``(D, D)``.
    """

    mean: Array
    covariance: Array
    last_mean: Array
    last_covariance: Array


def occupancy(
    policy: LinearGaussianPolicy, steps: LinearSteps, start: dist.MultivariateNormal
) -> Occupancy:
    """The exact first two moments of paths, where parameters are drawn at each step.

    :param policy: what chooses actions.
    :param steps: what they lead to.
    :param start: of the first state, ``(D,)``.
    """
    dim = steps.bias.shape[-1]

    def step(state: tuple[Array, Array], now: tuple) -> tuple[tuple, tuple]:
        (mean, cov), (gain, offset, noise, move) = state, now
        z = jnp.concatenate([mean, gain @ mean + offset])
        lift = jnp.concatenate([jnp.eye(dim, dtype=mean.dtype), gain])
        spread = (lift @ cov @ lift.T).at[dim:, dim:].add(noise)
        unsure = jnp.sum(move.spread * (spread + jnp.outer(z, z)))
        unsure = 1 + unsure + 2 * move.tilt @ z + move.excess
        cov = move.weight @ spread @ move.weight.T + unsure * move.noise
        return (move.weight @ z + move.bias, cov), (z, spread)

    given = policy.gain, policy.offset, policy.covariance, steps
    first = start.mean, start.covariance_matrix
    last, (means, spreads) = lax.scan(step, first, given)
    return Occupancy(means, spreads, last[0], last[1])


def policy_kl(
    policy: LinearGaussianPolicy, other: LinearGaussianPolicy, visited: Occupancy
) -> Array:
    """KL of the paths of a policy from those of another one, in the same system.

    It is the sum over steps of the expected divergence of actions, over the states that
    the first one visits.

    :param policy: with T steps.
    :param other: with as many.
    :param visited: the occupancy of the first one.
    """
    dim = policy.gain.shape[-1]
    mean, cov = visited.mean[:, :dim], visited.covariance[:, :dim, :dim]

    def divergence(
        own: Array, beside: Array, gain: Array, shift: Array, cov: Array
    ) -> Array:
        tril, wide = jnp.linalg.cholesky(own), jnp.linalg.cholesky(beside)
        spread, push, pull = (
            solve_triangular(wide, part, lower=True)
            for part in (tril, shift[:, None], gain)
        )
        squares = jnp.sum(spread**2) + jnp.sum(push**2) + jnp.sum((pull @ cov) * pull)
        log_det = jnp.sum(jnp.log(jnp.diagonal(wide)) - jnp.log(jnp.diagonal(tril)))
        return 0.5 * (squares - len(shift)) + log_det

    gain = policy.gain - other.gain
    shift = (gain @ mean[..., None])[..., 0] + policy.offset - other.offset
    each = jax.vmap(divergence)(policy.covariance, other.covariance, gain, shift, cov)
    return jnp.sum(each)
