# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Problems to first and second order around the paths of a plan."""

from __future__ import annotations

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.control.cost import Quadratic, convex
from numpyro_svae.control.linear_steps import LinearSteps
from numpyro_svae.control.problem import Problem

__all__ = ["expand"]


def expand(
    problem: Problem, actions: Array, paths: Array
) -> tuple[LinearSteps, Quadratic, Quadratic]:
    """Steps and costs of changes of the states of all samples, side by side."""
    count, dim = problem.start.shape
    samples, given = problem.given()
    slopes = jax.vmap(jax.jacrev(problem.step, (2, 3)), (None, 0, 0, 0))
    by_state, by_action = jax.vmap(slopes, (0, 0, 0, None))(
        samples, given, paths[:, :-1], actions
    )
    by_action = jnp.swapaxes(by_action, 0, 1).reshape(len(actions), count * dim, -1)
    weight = jnp.concatenate([_side_by_side(by_state), by_action], -1)
    size = count * dim + actions.shape[-1]
    none = jnp.zeros((len(actions), size, size), weight.dtype)
    steps = LinearSteps(
        weight,
        none[:, 0, : count * dim],
        none[:, : count * dim, : count * dim],
        none,
        none[:, 0],
        none[:, 0, 0],
    )

    def cost(z: Array) -> Array:
        return problem.cost(z[:dim], z[dim:])

    beside = jnp.broadcast_to(actions, (count, *actions.shape))
    z = jnp.concatenate([paths[:, :-1], beside], -1)
    matrix = jax.vmap(jax.vmap(lambda z: convex(jax.hessian(cost)(z))))(z) / count
    slope = jnp.swapaxes(jax.vmap(jax.vmap(jax.grad(cost)))(z), 0, 1) / count
    cross = jnp.swapaxes(matrix[..., dim:, :dim], 0, 1)  # (T, S, A, D)
    cross = jnp.swapaxes(cross, 1, 2).reshape(len(actions), -1, count * dim)
    own = jnp.sum(matrix[..., dim:, dim:], 0)
    above = jnp.concatenate([_side_by_side(matrix[..., :dim, :dim]), cross.mT], -1)
    joint = Quadratic(
        jnp.concatenate([above, jnp.concatenate([cross, own], -1)], -2),
        jnp.concatenate(
            [
                slope[..., :dim].reshape(len(actions), -1),
                jnp.sum(slope[..., dim:], 1),
            ],
            -1,
        ),
        none[:, 0, 0],
    )
    ends = paths[:, -1]
    last = jax.vmap(lambda x: convex(jax.hessian(problem.final)(x)))(ends) / count
    push = jax.vmap(jax.grad(problem.final))(ends).reshape(-1) / count
    final = Quadratic(_side_by_side(last[:, None])[0], push, none[0, 0, 0])
    return steps, joint, final


def _side_by_side(blocks: Array) -> Array:
    """Matrices ``(S, T, D, D)`` of samples as blocks of one, ``(T, S D, S D)``."""
    count, num_steps, dim = blocks.shape[:3]
    own = jnp.eye(count, dtype=blocks.dtype)
    return jnp.einsum("stij,sr->tsirj", blocks, own).reshape(
        num_steps, count * dim, count * dim
    )
