# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A planner that knows the physics and sees the state, to compare agents with."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np

from numpyro_svae import control


class SightedAgent:
    """Plans with the physics and the state of an environment, for comparison.

    :param task: the task.
    :param env: its environment.
    :param key: random key.
    """

    def __init__(self, task, env, key):
        self.env, self.key = env, key

        class Problem(control.ControlProblem):
            """The physics."""

            def move(self, weight, x, inputs):
                return task.move(x, inputs)

        def cost(x, action=None):
            return -task.reward(x)

        @jax.jit
        def plan(key, state, last):
            weight = jnp.zeros((1, len(state), len(state) + task.actions))  # not used
            rest = task.horizon, weight, state[None], -1.0, 1.0
            options = {"population": 128, "elites": 16, "num_steps": 4}
            start = jnp.concatenate([last[1:], last[-1:]])
            problem = Problem(cost, cost, *rest)
            return control.plan_by_sampling(key, problem, 1.0, start, **options)

        self._plan, self._start = plan, jnp.zeros((task.horizon, task.actions))

    def reset(self, seed=None):
        """Forget the last plan."""
        if seed is not None:
            self.key = random.key(seed)
        self.plan = self._start

    def act(self, observation):
        """The first action of a new plan."""
        self.key, key = random.split(self.key)
        state = jnp.asarray(self.env.unwrapped.state, jnp.float32)
        self.plan = self._plan(key, state, self.plan).actions
        return np.asarray(self.plan[0])
