# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The linear-quadratic regulator of dynamics that are known up to their posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from numpyro.util import not_jax_tracer

from numpyro_svae.control.cost import Quadratic, QuadraticCost
from numpyro_svae.control.linear_steps import Dynamics, LinearSteps, linear_steps
from numpyro_svae.control.policy import LinearGaussianPolicy
from numpyro_svae.control.recursion import backward
from numpyro_svae.families.matrices import inverse_from_tril

__all__ = ["Regulator", "minimise", "quadratic_problem", "solve_lqr"]


class Regulator(NamedTuple):
    """The actions ``gain_t x + offset_t``, and the costs to go.

    :param gain: ``(T, A, D)``.
    :param offset: ``(T, A)``.
    :param value: V of the cost to go ``x' V x / 2 + slope' x + constant`` before each
        action and at the end, ``(T + 1, D, D)``.
    :param slope: ``(T + 1, D)``.
    :param constant: ``(T + 1,)``.
    :param curvature: of the cost to go in the action, ``(T, A, A)``.
    """

    gain: Array
    offset: Array
    value: Array
    slope: Array
    constant: Array
    curvature: Array

    def policy(self, temperature: Array | float) -> LinearGaussianPolicy:
        """Actions drawn around these, further where they cost less.

        Of all policies it minimises the expected cost less the temperature times the
        entropy: the covariance is the temperature times the inverse of the curvature.

        :param temperature: positive, in units of the cost.
        """
        spread = inverse_from_tril(jnp.linalg.cholesky(self.curvature))
        return LinearGaussianPolicy(self.gain, self.offset, temperature * spread)


def solve_lqr(
    dynamics: Dynamics,
    cost: QuadraticCost,
    horizon: int,
    known: Array | None = None,
    *,
    final: QuadraticCost | None = None,
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
        more than ``D + 1`` degrees of freedom; or the pair of F and Q, if they are
        known. Both may be the same for all steps, or have a batch shape of ``(T,)``, as
        those of :func:`fit_local_dynamics`.
    :param cost: of each step; its parts may change with time.
    :param horizon: number T of actions.
    :param known: the inputs e after the actions, ``(T, E)`` or ``(E,)``.
    :param final: its cost of a state is that of the last state; that of the cost at
        the last step by default.
    :return: a gain and an offset for each step.
    :raises ValueError: if shapes do not fit, or no action costs least.
    """
    found = minimise(*quadratic_problem(dynamics, cost, horizon, known, final))
    if not_jax_tracer(found.offset) and not bool(jnp.isfinite(found.offset).all()):
        raise ValueError(
            "cost: found no action that costs least. Accepted are finite dynamics, and "
            "costs with a positive definite matrix of the actions and a positive "
            "semi-definite one of the states; add some of an identity to `action`."
        )
    return found


def quadratic_problem(
    dynamics: Dynamics,
    cost: QuadraticCost,
    horizon: int,
    known: Array | None,
    final: QuadraticCost | None,
) -> tuple[LinearSteps, Quadratic, Quadratic]:
    """The steps, the cost of each and that of the last state, checked."""
    steps = linear_steps(dynamics, jnp.shape(cost.action)[-1], horizon, known)
    last = cost.joint_final(horizon) if final is None else final.joint_final(1)
    dim = steps.bias.shape[-1]
    for name, found in (("cost", cost), ("final", final)):
        if found is not None and jnp.shape(found.target)[-1] != dim:
            raise ValueError(
                f"{name}: found a target of shape {jnp.shape(found.target)}; accepted "
                f"is one of the states of the dynamics, ({dim},)."
            )
    return steps, cost.joint(horizon), last


def minimise(steps: LinearSteps, cost: Quadratic, final: Quadratic) -> Regulator:
    """The regulator of linear steps and quadratic costs."""
    gain, offset, curvature, to_go = backward(steps, cost, final, _minimum)
    return Regulator(gain, offset, *to_go, curvature)


def _minimum(
    curvature: Array, coupling: Array, slope: Array, _: Any
) -> tuple[Array, Array]:
    """Gain and offset of the action that costs least."""
    factor = jnp.linalg.cholesky(curvature), True
    return -cho_solve(factor, coupling), -cho_solve(factor, slope)
