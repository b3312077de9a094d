# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Differential dynamic programming: regulators along the path of a plan."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp
import numpy as np

from numpyro_svae.control.box import bounded_rule
from numpyro_svae.control.expansion import expand
from numpyro_svae.control.planners import Plan, check_plan
from numpyro_svae.control.problem import Problem
from numpyro_svae.control.recursion import Recursion, backward

__all__ = ["plan_by_ilqr"]

_RATES = 0.5 ** np.arange(8)  # of the line search
_LEAST, _MOST, _FACTOR = 1e-6, 1e8, 10.0  # damping beside none


class _Search(NamedTuple):
    """Where the search is: the best plan, its paths, and what the next step does."""

    rounds: Array
    actions: Array
    paths: Array
    cost: Array
    damping: Array
    ended: Array


def plan_by_ilqr(
    problem: Problem,
    start: Array | None = None,
    *,
    num_steps: int = 50,
    tolerance: float = 1e-6,
) -> Plan:
    """Iterate the linear-quadratic regulator along the paths of the plan.

    Steps are linearised and costs taken to second order around the paths of the last
    plan, one for each sample; the regulator of all of them together, with actions
    within the bounds, is followed as far as the expected cost falls. It needs few
    steps, each of them dearer than one of :func:`plan_by_gradient`, and is at the
    minimum after one if steps are linear, costs quadratic and nothing is bounded.

    Curvatures of costs are projected to be positive semi-definite; where no step of the
    line search helps, actions are damped (Levenberg-Marquardt). (Tassa, Mansard and
    Todorov, *Control-limited differential dynamic programming*, ICRA 2014; Li and
    Todorov, *Iterative linear quadratic regulator design*, ICINCO 2004.)

    :param problem: what is to be controlled, with costs that can be differentiated
        twice. Time grows with the cube of samples times dimensions of the state.
    :param start: the first actions, ``(T, A)``; zero by default.
    :param num_steps: the largest number of steps.
    :param tolerance: it ends where a step lowers the cost by less than this part of
        it.
    :return: the best plan.
    :raises ValueError: if no plan has a finite cost.
    """
    shape = problem.horizon, problem.num_actions
    if start is None:
        start = jnp.zeros(shape, problem.start.dtype)
    actions = problem.clip(jnp.asarray(start, problem.start.dtype))
    low = jnp.broadcast_to(jnp.asarray(problem.lower, actions.dtype), shape)
    high = jnp.broadcast_to(jnp.asarray(problem.upper, actions.dtype), shape)

    def more(now: _Search) -> Array:
        return (now.rounds < num_steps) & ~now.ended

    def search(now: _Search) -> _Search:
        steps, cost, final = expand(problem, now.actions, now.paths)

        def rule(curvature: Array, coupling: Array, slope: Array, box: tuple) -> tuple:
            scale = jnp.trace(curvature) / len(slope) + jnp.finfo(slope.dtype).tiny
            own = jnp.eye(len(slope), dtype=slope.dtype)
            return bounded_rule(
                curvature + now.damping * scale * own, coupling, slope, box
            )

        box = low - now.actions, high - now.actions
        found = backward(steps, cost, final, rule, box)
        rates = jnp.asarray(_RATES, actions.dtype)
        tried = jax.vmap(lambda rate: _follow(problem, now, found, rate))(rates)
        costs = jax.vmap(problem.path_cost)(*tried)
        best = jnp.argmin(jnp.where(jnp.isnan(costs), jnp.inf, costs))
        better = costs[best] < now.cost
        less = now.damping / _FACTOR
        less = jnp.where(less < _LEAST, 0.0, less)
        damping = jnp.where(
            better, less, jnp.maximum(_FACTOR * now.damping, _LEAST * _FACTOR**3)
        )
        small = now.cost - costs[best] <= tolerance * jnp.abs(now.cost)
        new = _Search(
            now.rounds + 1,
            tried[0][best],
            tried[1][best],
            costs[best],
            damping,
            better & small,
        )
        stay = now._replace(
            rounds=now.rounds + 1, damping=damping, ended=damping > _MOST
        )
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, stay)

    paths = problem.rollout(actions)
    cost = problem.path_cost(actions, paths)
    cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
    zero, ended = jnp.zeros((), actions.dtype), jnp.zeros((), bool)
    first = _Search(jnp.zeros((), int), actions, paths, cost, zero, ended)
    found = lax.while_loop(more, search, first)
    return check_plan(Plan(found.actions, found.cost))


def _follow(
    problem: Problem, last: _Search, found: Recursion, rate: Array
) -> tuple[Array, Array]:
    """Actions and paths of a part of the way to the regulator's offsets."""
    samples, given = problem.given()
    given = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), given)

    def step(x: Array, now: tuple) -> tuple[Array, tuple[Array, Array]]:
        known, action, path, gain, offset = now
        action = action + rate * offset + gain @ (x - path).reshape(-1)
        action = jnp.clip(action, problem.lower, problem.upper)
        x = jax.vmap(problem.step, (0, 0, 0, None))(samples, known, x, action)
        return x, (action, x)

    before = jnp.swapaxes(last.paths, 0, 1)[:-1]
    each = given, last.actions, before, found.gain, found.offset
    _, (actions, later) = lax.scan(step, problem.start, each)
    paths = jnp.concatenate([problem.start[None], later])
    return actions, jnp.swapaxes(paths, 0, 1)
