# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The recursion of costs to go that regulators and planners share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.control.cost import Quadratic
from numpyro_svae.control.linear_steps import LinearSteps

__all__ = ["Recursion", "backward"]

Rule = Callable[[Array, Array, Array, Any], tuple[Array, Array]]


class Recursion(NamedTuple):
    """Actions ``gain_t x + offset_t``, and the costs to go of a recursion.

    :param gain: ``(T, A, D)``.
    :param offset: ``(T, A)``.
    :param curvature: of the cost to go in the action, ``(T, A, A)``.
    :param to_go: the cost to go before each action and at the end, ``T + 1`` leading.
    """

    gain: Array
    offset: Array
    curvature: Array
    to_go: Quadratic


def backward(
    steps: LinearSteps, cost: Quadratic, final: Quadratic, rule: Rule, given: Any = None
) -> Recursion:
    """Costs to go, from the last state to the first.

    :param steps: the linear dynamics.
    :param cost: of ``[x; a]`` at each step, with T leading.
    :param final: of the last state.
    :param rule: maps the cost of an action, ``a' H a / 2 + a' (G x + g)``, as H
        ``(A, A)``, G ``(A, D)`` and g ``(A,)``, and what is given at the step to the
        gain and the offset of the action. It need not be the minimum.
    :param given: for the rule, with T leading.
    """
    dim = final.slope.shape[-1]

    def step(later: Quadratic, now: tuple) -> tuple[Quadratic, tuple]:
        move, price, extra = now
        value, slope, constant = later
        unsure = jnp.sum(value * move.noise)
        push = value @ move.bias + slope
        matrix = price.matrix + move.weight.T @ value @ move.weight
        matrix = matrix + unsure * move.spread
        vector = price.slope + move.weight.T @ push + unsure * move.tilt
        constant = constant + price.constant + 0.5 * move.bias @ (push + slope)
        constant = constant + 0.5 * unsure * (1 + move.excess)
        curvature, coupling = matrix[dim:, dim:], matrix[dim:, :dim]
        gain, offset = rule(curvature, coupling, vector[dim:], extra)
        reaction = curvature @ gain + coupling
        value = matrix[:dim, :dim] + gain.T @ reaction + coupling.T @ gain
        slope = vector[:dim] + reaction.T @ offset + gain.T @ vector[dim:]
        constant = constant + offset @ (0.5 * curvature @ offset + vector[dim:])
        to_go = Quadratic(0.5 * (value + value.T), slope, constant)
        return to_go, (gain, offset, curvature, to_go)

    _, found = lax.scan(step, final, (steps, cost, given), reverse=True)
    gain, offset, curvature, values = found
    to_go = Quadratic(
        *(jnp.concatenate([a, b[None]]) for a, b in zip(values, final, strict=True))
    )
    return Recursion(gain, offset, curvature, to_go)
