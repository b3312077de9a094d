# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Model predictive control from what a filter knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.control.latent_agent import Policy
from numpyro_svae.control.planners import Plan, check_plan
from numpyro_svae.control.problem import Problem
from numpyro_svae.forecasting.filter import FilterState

__all__ = ["RecedingHorizon"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["start"],
    meta_fields=["problem", "planner"],
)
@dataclass(frozen=True)
class RecedingHorizon(Policy):
    """Plans from what is known, takes the first action, and plans again.

    The next plan starts from the rest of the last one. What a plan should reckon with,
    the uncertainty of the state and of the dynamics, is for ``problem`` to sample.

    :param problem: maps a random key and a filtered state to what is to be planned.
    :param planner: maps a random key, that problem and a plan to start from to a plan.
    :param start: the plan that each episode starts from, ``(H, A)``.

    **Example**

    .. code-block:: python

        def problem(key, belief):
            return FittedProblem.of(key, belief, cost, final, 20, lower=-2.0, upper=2.0)

        def planner(key, problem, start):
            return plan_by_sampling(key, problem, 1.0, start)

        policy = RecedingHorizon(problem, planner, jnp.zeros((20, 1)))
        agent = LatentAgent(tracker, policy, bounds=env.action_space)
        episode = run_episode(env, agent, 200)
    """

    problem: Callable[[Array, FilterState], Problem]
    planner: Callable[[Array, Problem, Array], Plan]
    start: Array

    def begin(self) -> Plan:
        """What to start the first plan from; its cost is not known."""
        return Plan(jnp.asarray(self.start), jnp.asarray(jnp.nan))

    def act(self, key: Array, belief: FilterState, memory: Plan) -> tuple[Array, Plan]:
        """The first action of a new plan, and what is left of that plan."""
        draw, search = random.split(key)
        plan = self.planner(search, self.problem(draw, belief), memory.actions)
        rest = jnp.concatenate([plan.actions[1:], plan.actions[-1:]])
        return plan.actions[0], Plan(rest, plan.cost)

    def check(self, memory: Plan) -> None:
        """A plan must have a cost.

        :raises ValueError: if it is not finite.
        """
        check_plan(memory)
