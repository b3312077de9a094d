# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Agents that know the physics and see the state, to compare others with."""

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


class RegulatedAgent:
    """The regulator of the physics and the reward, as they are near a state of zero.

    :param task: the task.
    :param env: its environment.
    """

    def __init__(self, task, env):
        self.env = env
        size = env.observation_space.shape
        rest = jnp.zeros(size), jnp.zeros(task.actions)
        steps = jnp.concatenate([jax.jacfwd(task.move, i)(*rest) for i in (0, 1)], 1)
        worth = control.QuadraticCost(
            -jax.hessian(task.reward)(rest[0]),
            task.effort * jnp.eye(task.actions),
            target=rest[0],
        )
        noise = 1e-6 * jnp.eye(*size)  # it does not matter
        self.gain = np.asarray(control.solve_lqr((steps, noise), worth, 500).gain[0])

    def reset(self, seed=None):
        """There is nothing to forget."""

    def act(self, observation):
        """The action of the regulator."""
        return np.clip(self.gain @ self.env.unwrapped.state, -1, 1)
