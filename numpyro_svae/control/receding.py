# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Model predictive control from what a filter knows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.control.planners import Plan
from numpyro_svae.control.problem import Problem
from numpyro_svae.forecasting.filter import FilterState

__all__ = ["RecedingHorizon"]

MakeProblem = Callable[[Array, FilterState], Problem]
Planner = Callable[[Array, Problem, Array], Plan]


class RecedingHorizon:
    """An agent that filters what it sees, plans, and takes the first action of a plan.

    The next plan starts from the rest of the last one. What a plan should reckon with,
    the uncertainty of the state and of the dynamics, is for ``problem`` to sample. The
    first action of an episode is that of ``start``: one observation is not enough to
    filter.

    :param belief: a state of :func:`numpyro_svae.filter` for one sequence; its
        parameters are those that are used.
    :param arguments: maps some observations ``(T, ...)`` of an episode, in order, and
        the actions between them ``(T - 1, A)`` to the arguments of the model that have
        time, by name: arrays with one sequence and then time leading.
    :param problem: maps a random key and a filtered state to what is to be planned.
    :param planner: maps a random key, that problem and a plan to start from to a plan.
    :param start: the plan that each episode starts from, ``(H, A)``.
    :param key: random key.

    **Example**

    .. code-block:: python

        def problem(key, belief):
            dynamics = guide.get_posterior(belief.params)["dynamics"]
            weight, _ = dynamics.unpack(dynamics.sample(key, (8,)))
            x = belief.marginals["x"].sample(key, (8,))[:, 0]
            return ControlProblem(cost, cost.final, 20, weight, x, -2.0, 2.0)

        def planner(key, problem, start):
            return plan_by_sampling(key, problem, 1.0, start)

        agent = RecedingHorizon(
            ns.filter(model, guide, params, y[:1], actions[:1]),
            lambda y, actions: {"y": y[None], "actions": actions[None]},
            problem,
            planner,
            jnp.zeros((20, 1)),
            random.key(0),
        )
        episode = run_episode(env, agent, 200)
    """

    def __init__(
        self,
        belief: FilterState,
        arguments: Callable[[Array, Array], dict[str, Any]],
        problem: MakeProblem,
        planner: Planner,
        start: Array,
        key: Array,
    ) -> None:
        self.belief = belief
        self.arguments = arguments
        self.problem = problem
        self.planner = planner
        self.start = start
        self.key = key
        self.reset()

    def reset(self) -> None:
        """Forget the episode so far."""
        self.plan = Plan(jnp.asarray(self.start), jnp.asarray(jnp.nan))
        self._last: Any = None
        self._steps = 0

    def act(self, observation: Any) -> np.ndarray:
        """The action ``(A,)`` to take after the next observation of an episode."""
        if self._steps > 0:
            seen = jnp.stack([jnp.asarray(self._last), jnp.asarray(observation)])
            found = self.arguments(seen, self.plan.actions[:1])
            if self._steps == 1:
                self.belief = self.belief.restart(**found)
            else:
                new = {name: value[:, -1] for name, value in found.items()}
                self.belief = self.belief.update(**new)
            self.key, key = random.split(self.key)
            self.plan = _replan(
                self.problem, self.planner, key, self.belief, self.plan.actions
            )
        self._last, self._steps = observation, self._steps + 1
        return np.asarray(self.plan.actions[0])


@partial(jax.jit, static_argnums=(0, 1))
def _replan(
    problem: MakeProblem, planner: Planner, key: Array, belief: FilterState, last: Array
) -> Plan:
    """A plan that starts from what is left of the last one."""
    draw, search = random.split(key)
    start = jnp.concatenate([last[1:], last[-1:]])
    return planner(search, problem(draw, belief), start)
