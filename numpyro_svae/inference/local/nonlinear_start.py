# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the steps of a chain that is not linear start.

They are those of a cubature Kalman filter, or of a path that rests where it begins,
which has moments that are as they are whatever the transition is.

**Source:** I. Arasaratnam and S. Haykin, *Cubature Kalman filters*, IEEE
Transactions on Automatic Control 54, 2009.
"""

from __future__ import annotations

from typing import Any

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.gradient_messages import VectorMoments
from numpyro_svae.inference.local.lane_solves import cholesky_of
from numpyro_svae.inference.local.learnt_transitions import Transition
from numpyro_svae.inference.local.nonlinear_steps import (
    LinearSteps,
    linear_steps,
    points_of,
    steps_of,
)
from numpyro_svae.potentials import GaussianPotential

__all__ = ["filtered_steps", "resting_steps"]


def filtered_steps(
    transition: Transition,
    prior: LinearGaussianChain,
    message: GaussianPotential,
    rule: Rule,
) -> LinearSteps:
    """Linear steps at the moments of a filter, as a start (a cubature Kalman filter).

    :param transition: how it moves, with the weights that are expected.
    :param prior: a chain with the first state and the noise that are expected of it.
    :param message: what the states are told, batch shape ``(..., T)``.
    :param rule: the points.
    """
    (*batch, steps), size = message.batch_shape, message.dim
    precision = jnp.broadcast_to(message.full_precision(), (*batch, steps, size, size))
    points = points_of(rule, VectorMoments(message.info_vector, precision))
    noise = _in_time(prior.transition_cov, (*batch, steps - 1, size, size))

    def move(state: tuple[Array, Array], given: Any) -> tuple[Any, Any]:
        info, precision, cov, u = given
        found = condition(*state, GaussianPotential(info, precision))
        moments = VectorMoments(found.mean, found.scale_tril)
        matrix, spread = linear_steps(lambda x: transition.step(x, u), moments, points)
        mean = moments.mean[..., None]
        value = matrix[..., :-1] @ mean + matrix[..., -1:]
        finite = jnp.isfinite(jnp.sum(spread, (-2, -1)) + jnp.sum(matrix, (-2, -1)))
        finite = finite[..., None]
        after = (
            jnp.squeeze(jnp.where(finite[..., None], value, mean), -1),
            jnp.where(finite[..., None], spread, found.covariance) + cov,
        )
        stays = jnp.eye(size, size + 1, dtype=mean.dtype)
        return after, (jnp.where(finite[..., None], matrix, stays), moments)

    first = (
        jnp.broadcast_to(prior.initial_loc, (*batch, size)),
        jnp.broadcast_to(prior.initial_cov, (*batch, size, size)),
    )
    told = [jnp.moveaxis(x, len(batch), 0) for x in (message.info_vector, precision)]
    over = (*(x[:-1] for x in told), noise, transition.steps((*batch, steps - 1)))
    _, (matrix, moments) = lax.scan(move, first, over)
    matrix, mean, tril = (jnp.moveaxis(x, 0, len(batch)) for x in (matrix, *moments))
    nothing = jnp.zeros_like(mean), jnp.zeros_like(tril)
    return steps_of(matrix, nothing, VectorMoments(mean, tril))


def resting_steps(
    prior: LinearGaussianChain, positions: tuple[int, ...], wide: Array
) -> LinearSteps:
    """Linear steps of a path that stays about its first mean.

    Where a filter of the prior runs away, since its transition makes the spread of a
    path larger step by step, this has moments of a known size.

    :param prior: a chain with the first state and the noise that are expected of it.
    :param positions: of its states, ``(..., T)``.
    :param wide: whether the path spreads as the first state does, as far as steps with
        the noise of the chain can; otherwise it has only this noise.
    """
    *batch, steps = positions
    size = prior.initial_loc.shape[-1]
    shape = *batch, steps - 1, size, size
    cov = jnp.broadcast_to(prior.transition_cov, shape)
    mean = prior.initial_loc[..., None, :]
    variances = jnp.diagonal(prior.initial_cov, axis1=-2, axis2=-1)[..., None, :]
    noises = jnp.diagonal(cov, axis1=-2, axis2=-1)
    forgets = jnp.max(noises / variances, -1)  # infinite of a first state that is known
    stays = jnp.where(wide, jnp.sqrt(jnp.maximum(1.0 - forgets, 0.0)), 0.0)[..., None]
    slope = stays[..., None] * jnp.eye(size, dtype=cov.dtype)
    bias = jnp.broadcast_to((1.0 - stays) * mean, shape[:-1])
    matrix = jnp.concatenate([slope, bias[..., None]], -1)
    tril = cholesky_of(cov) / jnp.sqrt(1.0 - stays[..., None] ** 2)
    nothing = jnp.zeros_like(bias), jnp.zeros_like(slope)
    return steps_of(
        matrix, nothing, VectorMoments(jnp.broadcast_to(mean, bias.shape), tril)
    )


def _in_time(x: Array, shape: tuple[int, ...]) -> Array:
    return jnp.moveaxis(jnp.broadcast_to(x, shape), len(shape) - 3, 0)
