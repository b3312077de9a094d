# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Quadratic costs of states and actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

__all__ = ["Quadratic", "QuadraticCost", "convex"]


def convex(matrix: Array) -> Array:
    """The nearest positive semi-definite matrix to one ``(N, N)``."""
    values, basis = jnp.linalg.eigh(0.5 * (matrix + matrix.T))
    return (basis * jnp.maximum(values, 0.0)) @ basis.T


class Quadratic(NamedTuple):
    """The function ``z' matrix z / 2 + slope' z + constant`` of a vector z.

    :param matrix: ``(..., N, N)``.
    :param slope: ``(..., N)``.
    :param constant: ``(...)``.
    """

    matrix: Array
    slope: Array
    constant: Array

    def expected(self, mean: Array, covariance: Array) -> Array:
        """Its mean where z has these moments, ``(..., N)`` and ``(..., N, N)``."""
        second = covariance + mean[..., :, None] * mean[..., None, :]
        curved = 0.5 * jnp.sum(self.matrix * second, (-1, -2))
        return curved + jnp.sum(self.slope * mean, -1) + self.constant


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuadraticCost:
    r"""The cost of a step, a quadratic function of its state and action,

    .. math::

        \tfrac12 (x - g)^T W (x - g) + \tfrac12 a^T R a + a^T N x + s^T x + r^T a + c .

    Regulators accept an axis of time in front of any of these, of length T, for costs
    and targets that change; planners call the cost without it.

    :param state: positive semi-definite W, ``(D, D)``.
    :param action: positive definite R, ``(A, A)``.
    :param target: g, ``(D,)``.
    :param cross: N, ``(A, D)``.
    :param state_slope: s, ``(D,)``.
    :param action_slope: r, ``(A,)``.
    :param constant: c, a number.
    """

    state: Array
    action: Array
    target: Array
    cross: Array | None = None
    state_slope: Array | None = None
    action_slope: Array | None = None
    constant: Array | float = 0.0

    def __call__(self, x: Array, action: Array) -> Array:
        """Cost of a state ``(D,)`` and the action ``(A,)`` that is taken in it."""
        cost = self.final(x) + 0.5 * action @ self.action @ action
        if self.cross is not None:
            cost = cost + action @ self.cross @ x
        if self.action_slope is not None:
            cost = cost + self.action_slope @ action
        return cost

    def final(self, x: Array) -> Array:
        """Cost of a state ``(D,)`` in which no action is taken."""
        cost = 0.5 * (x - self.target) @ self.state @ (x - self.target) + self.constant
        return cost if self.state_slope is None else cost + self.state_slope @ x

    def joint(self, horizon: int) -> Quadratic:
        """The cost as a function of ``z = [x; action]``, at each of T steps.

        :param horizon: number T of steps.
        :return: with T leading.
        :raises ValueError: if shapes do not fit.
        """
        dim, count = jnp.shape(self.target)[-1], jnp.shape(self.action)[-1]
        shapes = {
            "state": (dim, dim),
            "action": (count, count),
            "target": (dim,),
            "cross": (count, dim),
            "state_slope": (dim,),
            "action_slope": (count,),
            "constant": (),
        }
        state, action, target, cross, slope, push, constant = (
            _at_each_step(name, getattr(self, name), shape, horizon)
            for name, shape in shapes.items()
        )
        above = jnp.concatenate([state, cross.mT], -1)
        pull = (state @ target[..., None])[..., 0]
        return Quadratic(
            jnp.concatenate([above, jnp.concatenate([cross, action], -1)], -2),
            jnp.concatenate([slope - pull, push], -1),
            constant + 0.5 * jnp.sum(target * pull, -1),
        )

    def joint_final(self, horizon: int) -> Quadratic:
        """The cost of the last of T states, in which no action is taken."""
        matrix, slope, constant = self.joint(horizon)
        dim = jnp.shape(self.target)[-1]
        return Quadratic(matrix[-1, :dim, :dim], slope[-1, :dim], constant[-1])


def _at_each_step(
    name: str, value: Array | float | None, shape: tuple[int, ...], horizon: int
) -> Array:
    """A part of a cost with time leading; zero if there is none."""
    array = jnp.zeros(shape) if value is None else jnp.asarray(value, float)
    if array.shape not in (shape, (horizon, *shape)):
        raise ValueError(
            f"{name} of QuadraticCost: found shape {array.shape}; accepted are {shape} "
            f"and, for {horizon} steps, {(horizon, *shape)}."
        )
    return jnp.broadcast_to(array, (horizon, *shape))
