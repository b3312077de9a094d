# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Better policies that stay near to the last one."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
import numpyro.distributions as dist

from numpyro_svae.control.cost import Quadratic, QuadraticCost
from numpyro_svae.control.linear_steps import Dynamics, LinearSteps
from numpyro_svae.control.lqr import minimise, quadratic_problem
from numpyro_svae.control.policy import (
    LinearGaussianPolicy,
    Occupancy,
    occupancy,
    policy_kl,
)

__all__ = ["PolicyStep", "improve_policy"]

_TOLERANCE = 1e-3  # of the bound, within which a divergence is near enough
_FACTOR = 10.0  # between multipliers until one is too small and one too large


class PolicyStep(NamedTuple):
    """A policy, and what the step to it is.

    :param policy: the new policy.
    :param multiplier: of the divergence: the cost of one nat more of it.
    :param divergence: of paths under the new policy from those under the old one.
    :param cost: expected cost of the new policy.
    :param old_cost: expected cost of the old policy.
    """

    policy: LinearGaussianPolicy
    multiplier: Array
    divergence: Array
    cost: Array
    old_cost: Array


def improve_policy(
    policy: LinearGaussianPolicy,
    dynamics: Dynamics,
    cost: QuadraticCost,
    start: dist.MultivariateNormal,
    bound: Array | float,
    known: Array | None = None,
    *,
    final: QuadraticCost | None = None,
    max_steps: int = 60,
) -> PolicyStep:
    r"""The policy of least expected cost whose paths are near to those of the last one.

    Dynamics and costs that were fitted to the paths of one policy are right near to
    these, so the next one shall not go far: the divergence of its paths,
    :math:`\mathrm{KL}(p_{\text{new}} \| p_{\text{old}})`, is at most ``bound``. For a
    multiplier :math:`\eta` the policy

    .. math::

        \operatorname{argmin} \; \mathrm{E}[\text{cost}] + \eta \,
        \mathrm{KL}(p_{\text{new}} \| p_{\text{old}})

    is the regulator of the cost :math:`c(x, a) - \eta \log \pi_{\text{old}}(a | x)`, at
    temperature :math:`\eta`; the multiplier is found by bisection (Levine and Abbeel,
    *Learning neural network policies with guided policy search under unknown dynamics*,
    NIPS 2014). Under :func:`solve_lqr`'s account of uncertain dynamics this is exact.

    It works inside of ``jit``, and costs need not be convex: then they are held by the
    divergence.

    :param policy: the last policy, with T steps.
    :param dynamics: as for :func:`solve_lqr`.
    :param cost: likewise.
    :param start: of the first state, ``(D,)``: such as the mean and covariance of
        first states that were smoothed.
    :param bound: the largest divergence, in nats, summed over the steps.
    :param known: the inputs after the actions, ``(T, E)`` or ``(E,)``.
    :param final: its cost of a state is that of the last state.
    :param max_steps: number of regulators that are tried at most.
    :return: the policy; its divergence is between .999 of the bound and the bound,
        if that many steps are enough.
    :raises ValueError: if shapes do not fit.
    """
    problem = quadratic_problem(dynamics, cost, policy.horizon, known, final)
    steps, price, last = problem
    _check(policy, steps, start)
    before = occupancy(policy, steps, start)
    old_cost = _expected_cost(before, price, last)
    penalty = _minus_log_density(policy)

    def attempt(multiplier: Array) -> PolicyStep:
        whole = jax.tree.map(lambda a, b: a + multiplier * b, price, penalty)
        new = minimise(steps, whole, last).policy(multiplier)
        visited = occupancy(new, steps, start)
        far = policy_kl(new, policy, visited)
        return PolicyStep(
            new, multiplier, far, _expected_cost(visited, price, last), old_cost
        )

    def more(state: tuple) -> Array:
        count, _, _, best = state
        near = best.divergence >= (1 - _TOLERANCE) * bound
        return (count < max_steps) & ~near

    def search(state: tuple) -> tuple:
        count, low, high, best = state
        middle = jnp.sqrt(low * high)
        middle = jnp.where(jnp.isinf(high), _FACTOR * low, middle)
        middle = jnp.where(low == 0, high / _FACTOR, middle)
        tried = attempt(middle)
        allowed = tried.divergence <= bound  # not where the regulator does not exist
        best = jax.tree.map(lambda a, b: jnp.where(allowed, a, b), tried, best)
        low, high = jnp.where(allowed, low, middle), jnp.where(allowed, middle, high)
        return count + 1, low, high, best

    scale = jnp.abs(old_cost) / bound
    first = _FACTOR * jnp.where(scale > 0, scale, 1.0)
    zero = jnp.zeros_like(old_cost)
    stay = PolicyStep(policy, jnp.full_like(zero, jnp.inf), zero, old_cost, old_cost)
    state = 0, zero, first, stay
    return lax.while_loop(more, search, state)[-1]


def _expected_cost(visited: Occupancy, cost: Quadratic, final: Quadratic) -> Array:
    """Of the steps and of the last state."""
    each = cost.expected(visited.mean, visited.covariance)
    return jnp.sum(each) + final.expected(visited.last_mean, visited.last_covariance)


def _minus_log_density(policy: LinearGaussianPolicy) -> Quadratic:
    """Of actions given states, but for a constant."""

    def step(gain: Array, offset: Array, covariance: Array) -> Quadratic:
        beside = jnp.concatenate([-gain, jnp.eye(len(offset), dtype=gain.dtype)], -1)
        tril = jnp.linalg.cholesky(covariance)
        root = solve_triangular(tril, beside, lower=True)
        shift = solve_triangular(tril, offset, lower=True)
        return Quadratic(root.T @ root, -root.T @ shift, 0.5 * shift @ shift)

    return jax.vmap(step)(policy.gain, policy.offset, policy.covariance)


def _check(
    policy: LinearGaussianPolicy, steps: LinearSteps, start: dist.MultivariateNormal
) -> None:
    """The policy and the start are of the states and actions of the steps."""
    dim, width = steps.weight.shape[-2:]
    found = policy.gain.shape[1:], start.batch_shape + start.event_shape
    if found != ((width - dim, dim), (dim,)):
        raise ValueError(
            f"policy, start: found gains of shape {found[0]} and a state of shape "
            f"{found[1]}; accepted are {(width - dim, dim)} and {(dim,)}."
        )
