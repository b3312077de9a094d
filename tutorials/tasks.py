# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Tasks that are seen in pictures, and what to compare agents with."""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import jax
from jax import random
import jax.numpy as jnp
import numpy as np

from numpyro_svae import control

SIZE = 32
_CENTRES = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1


def draw_rod(start, end, half_width=0.06):
    """A line from one point to another, both in [-1, 1], with soft edges."""
    x, y = np.meshgrid(_CENTRES, -_CENTRES)  # y points up
    here = np.stack([x, y], -1)
    start, along = np.asarray(start), np.subtract(end, start)
    share = (here - start) @ along / np.maximum(along @ along, 1e-9)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    distance = np.linalg.norm(here - nearest, axis=-1)
    return np.clip(0.5 + (half_width - distance) * SIZE / 2, 0, 1)


def draw_pendulum(state):
    """A pendulum whose angle is zero when it stands upright."""
    angle = state[0]
    return draw_rod((0, 0), (0.86 * np.sin(angle), 0.86 * np.cos(angle)))


class Pictures(gymnasium.Wrapper):
    """An environment that shows nothing but pictures of its state.

    The states are kept in ``states`` for those who judge; the agent is not shown them.

    :param env: an environment that has its state in ``unwrapped.state``.
    :param draw: maps a state to a picture ``(32, 32)``.
    :param start: maps a random generator to a state to begin with; by default the
        environment chooses.
    :param noise: standard deviation of the noise of pixels.
    :param seed: of the beginnings and of the noise.
    """

    def __init__(self, env, draw, start=None, noise=0.02, seed=0):
        super().__init__(env)
        self.draw, self.start, self.noise = draw, start, noise
        self.rng = np.random.default_rng(seed)

    def reset(self, *, seed=None, options=None):
        """Begin an episode."""
        if seed is None:
            seed = int(self.rng.integers(2**31))
        else:
            self.rng = np.random.default_rng([seed, 2])
        _, info = self.env.reset(seed=seed, options=options)
        if self.start is not None:
            self.unwrapped.state = self.start(self.rng)
        self.states = [np.array(self.unwrapped.state)]
        return self.picture(), info

    def step(self, action):
        """Act."""
        _, *outcome = self.env.step(action)
        self.states.append(np.array(self.unwrapped.state))
        return self.picture(), *outcome

    def picture(self):
        """A grey picture (1024,): 0 for the background and 1 for what is drawn."""
        picture = self.draw(self.unwrapped.state)
        noisy = picture + self.noise * self.rng.standard_normal(picture.shape)
        return noisy.reshape(-1).astype(np.float32)


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


@dataclass(frozen=True)
class Task:
    """What an environment is, and how it is judged.

    :param name: of gymnasium's environment.
    :param draw: maps a state to a picture.
    :param start: maps a random generator to a state in which an agent begins; random
        actions begin where the environment says.
    :param reached: maps the states of an episode to whether its end was good.
    :param read: maps states ``(..., S)`` to numbers that smoothed states should show.
    :param move: maps a state and an action to the next state: the physics.
    :param reward: of a state, without the effort.
    :param actions: number of entries of an action.
    :param horizon: of the planner that sees the state.
    """

    name: str
    draw: Callable
    start: Callable
    reached: Callable
    read: Callable
    move: Callable
    reward: Callable
    actions: int = 1
    horizon: int = 25

    def make(self, seed, begin=True):
        """The environment.

        :param begin: whether episodes begin as those of agents do.
        """
        start = self.start if begin else None
        return Pictures(gymnasium.make(self.name), self.draw, start, seed=seed)


def hang(rng):
    """A pendulum that hangs, nearly at rest."""
    return np.array([np.pi, 0.0]) + rng.uniform(-0.05, 0.05, 2)


def stands(states):
    """Whether a pendulum stands up, within 26 degrees for the last second."""
    return bool(np.all(np.cos(states[-20:, 0]) > 0.9))


def move_pendulum(x, action):
    """One step of gymnasium's Pendulum-v1."""
    angle, velocity = x
    push = 15 * jnp.sin(angle) + 6 * action[0]
    velocity = jnp.clip(velocity + 0.05 * push, -8, 8)
    return jnp.stack([angle + 0.05 * velocity, velocity])


def pendulum_reward(x):
    """What gymnasium pays for a state, but for the effort."""
    angle = jnp.mod(x[0] + jnp.pi, 2 * jnp.pi) - jnp.pi
    return -(angle**2) - 0.1 * x[1] ** 2


def read_pendulum(states):
    """Sine and cosine of the angle, and the angular velocity."""
    angle, velocity = states[..., 0], states[..., 1]
    return np.stack([np.sin(angle), np.cos(angle), velocity], -1)


TASKS = {
    "pendulum": Task(
        "Pendulum-v1",
        draw_pendulum,
        hang,
        stands,
        read_pendulum,
        move_pendulum,
        pendulum_reward,
    )
}
