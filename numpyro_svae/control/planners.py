# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Planners for any cost: by gradients, and by sampling where gradients mislead."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array, lax, random
import jax.numpy as jnp
from numpyro.util import not_jax_tracer
import optax

from numpyro_svae.control.problem import Problem

__all__ = ["Plan", "check_plan", "plan_by_gradient", "plan_by_sampling"]


class Plan(NamedTuple):
    """Actions ``(T, A)`` within the bounds, and their expected cost."""

    actions: Array
    cost: Array


def check_plan(plan: Plan) -> Plan:
    """A plan must have a cost; what is being compiled is taken as it is.

    :raises ValueError: if it is not finite.
    """
    if not_jax_tracer(plan.cost) and not bool(jnp.isfinite(plan.cost)):
        raise ValueError(
            f"cost: found {plan.cost} for the best plan. Accepted is a cost that is "
            "finite for some plan. Write one that is finite for whatever state samples "
            "reach, such as one with jnp.clip before a logarithm, a root or a quotient."
        )
    return plan


def plan_by_gradient(
    problem: Problem,
    start: Array | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 100,
) -> Plan:
    """Descend the expected cost, with each step projected onto the bounds.

    :param problem: what is to be controlled.
    :param start: the first actions, ``(T, A)``, such as those of the plan before this
        one without its first action; zero by default.
    :param optimizer: of the actions; Adam with step size 0.1 by default.
    :param num_steps: number of its steps.
    :return: the best actions on the way.
    :raises ValueError: if no plan has a finite cost.
    """
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    if start is None:
        shape = problem.horizon, problem.num_actions
        start = jnp.zeros(shape, problem.start.dtype)
    actions = problem.clip(start)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        actions, state, best = carry
        cost, slope = jax.value_and_grad(problem.expected_cost)(actions)
        best = _better(best, Plan(actions, cost))
        update, state = optimizer.update(slope, state, actions)
        return (problem.clip(optax.apply_updates(actions, update)), state, best), None

    best = _no_plan(actions)
    carry = actions, optimizer.init(actions), best
    (actions, _, best), _ = lax.scan(step, carry, None, num_steps)
    return check_plan(_better(best, Plan(actions, problem.expected_cost(actions))))


def plan_by_sampling(
    key: Array,
    problem: Problem,
    scale: Array | float,
    start: Array | None = None,
    *,
    population: int = 256,
    elites: int = 32,
    num_steps: int = 20,
    inertia: float = 0.1,
) -> Plan:
    """The cross-entropy method: move a Gaussian of plans to the best of its samples.

    Rubinstein and Kroese, *The cross-entropy method*, 2004. It needs no gradient of the
    cost, and finds its way around hills that a gradient does not see over.

    :param key: random key.
    :param problem: what is to be controlled.
    :param scale: standard deviation of actions at the start, ``(A,)`` or a number.
    :param start: mean of the plans at the start, ``(T, A)``; zero by default.
    :param population: number of plans that are sampled in each step.
    :param elites: how many of them are kept.
    :param num_steps: number of steps.
    :param inertia: how much of the last mean and deviation is kept in each step.
    :return: the best plan that was seen.
    :raises ValueError: if there are not from 2 to ``population`` elites, or no plan has
        a finite cost.
    """
    if not 2 <= elites <= population:
        raise ValueError(
            f"elites: found {elites}; accepted are from 2 to the population, "
            f"{population}."
        )
    shape = problem.horizon, problem.num_actions
    mean = jnp.zeros(shape, problem.start.dtype) if start is None else start
    deviation = jnp.broadcast_to(jnp.asarray(scale, mean.dtype), shape)
    price = jax.vmap(problem.expected_cost)

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        mean, deviation, best = carry
        noise = random.normal(key, (population, *shape), mean.dtype)
        plans = problem.clip(mean + deviation * noise)
        costs = price(plans)
        costs = jnp.where(jnp.isnan(costs), jnp.inf, costs)
        order = jnp.argsort(costs)[:elites]
        chosen = plans[order]
        best = _better(best, Plan(chosen[0], costs[order[0]]))
        mean = inertia * mean + (1 - inertia) * jnp.mean(chosen, 0)
        deviation = inertia * deviation + (1 - inertia) * jnp.std(chosen, 0)
        return (mean, deviation, best), None

    first = problem.clip(mean)
    best = _better(_no_plan(first), Plan(first, problem.expected_cost(first)))
    keys = random.split(key, num_steps)
    (mean, _, best), _ = lax.scan(step, (mean, deviation, best), keys)
    mean = problem.clip(mean)
    return check_plan(_better(best, Plan(mean, problem.expected_cost(mean))))


def _no_plan(actions: Array) -> Plan:
    """Actions that any plan with a cost is better than."""
    return Plan(actions, jnp.asarray(jnp.inf, actions.dtype))


def _better(first: Plan, second: Plan) -> Plan:
    """The plan that costs less."""
    keep = second.cost < first.cost
    return jax.tree.map(lambda a, b: jnp.where(keep, b, a), first, second)
