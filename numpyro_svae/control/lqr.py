# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The linear-quadratic regulator of dynamics that are known up to their posterior."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array, lax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from numpyro_svae.control.problem import QuadraticCost
from numpyro_svae.distributions import MatrixNormalInverseWishart

__all__ = ["Regulator", "solve_lqr"]


class Regulator(NamedTuple):
    """The actions ``gain_t x + offset_t``, and the costs to go.

    :param gain: ``(T, A, D)``.
    :param offset: ``(T, A)``.
    :param value: V of the cost to go ``x' V x / 2 + slope' x + constant`` before each
        action and at the end, ``(T + 1, D, D)``.
    :param slope: ``(T + 1, D)``.
    """

    gain: Array
    offset: Array
    value: Array
    slope: Array


def solve_lqr(
    dynamics: MatrixNormalInverseWishart,
    cost: QuadraticCost,
    horizon: int,
    known: Array | None = None,
) -> Regulator:
    r"""Minimise the expected quadratic cost of T steps and a last state.

    Of :math:`x' \sim N(F u, Q)`, :math:`u = [x; a; e]`, the expected cost to go needs

    .. math::

        \mathrm{E}[F^T V F] = M^T V M + \mathrm{tr}(V \, \mathrm{E} Q) K^{-1},

    so that actions are smaller where their effect is less certain. The parameters are
    taken to be drawn anew at each step: the plan is cautious, and does not experiment
    (Bar-Shalom and Tse, *Dual effect, certainty equivalence, and separation in
    stochastic control*, IEEE TAC 1974).

    :param dynamics: the posterior of (F, Q), with F of shape ``(D, D + A + E)`` and
        more than ``D + 1`` degrees of freedom.
    :param cost: of each step, and of the last state.
    :param horizon: number T of actions.
    :param known: the inputs e after the actions, ``(T, E)`` or ``(E,)``.
    :return: a gain and an offset for each step.
    :raises ValueError: if shapes do not fit.
    """
    (dim, width), count = dynamics.loc.shape[-2:], cost.action.shape[-1]
    extra = width - dim - count
    found = 0 if known is None else jnp.shape(known)[-1]
    if dynamics.batch_shape or extra != found:
        raise ValueError(
            f"dynamics: found batch shape {dynamics.batch_shape} and a weight of shape "
            f"{(dim, width)}, with {count} actions and {found} known inputs; accepted "
            f"are no batch and ({dim}, {dim} + {count} + {found})."
        )
    noise = dynamics.mean[..., width:]
    columns = cho_factor(dynamics.column_precision, lower=True)
    spread = cho_solve(columns, jnp.eye(width, dtype=noise.dtype))
    inputs = jnp.zeros((horizon, 0)) if known is None else jnp.asarray(known)
    inputs = jnp.broadcast_to(inputs, (horizon, extra))

    def step(later: tuple[Array, Array], given: Array) -> tuple[tuple, Regulator]:
        value, slope = later
        pull = dynamics.loc.T @ value @ dynamics.loc
        pull = pull + jnp.sum(value * noise) * spread  # E F' V F
        push = dynamics.loc.T @ slope
        states, actions, rest = slice(0, dim), slice(dim, dim + count), dim + count
        curvature = cho_factor(pull[actions, actions] + cost.action, lower=True)
        coupling = pull[actions, states]
        drift = pull[:, rest:] @ given + push
        gain = -cho_solve(curvature, coupling)
        offset = -cho_solve(curvature, drift[actions])
        value = cost.state + pull[states, states] + coupling.T @ gain
        slope = drift[states] + coupling.T @ offset - cost.state @ cost.target
        value = 0.5 * (value + value.T)
        return (value, slope), Regulator(gain, offset, value, slope)

    last = cost.state, -cost.state @ cost.target
    _, found_steps = lax.scan(step, last, inputs, reverse=True)
    value = jnp.concatenate([found_steps.value, last[0][None]])
    slope = jnp.concatenate([found_steps.slope, last[1][None]])
    return Regulator(found_steps.gain, found_steps.offset, value, slope)
