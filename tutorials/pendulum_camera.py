# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A pendulum that a camera sees, agents to compare with, and how good they are."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draw without a screen

import gymnasium
import jax
from jax import random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.control import ControlProblem, plan_by_sampling, run_episode

SIZE, PIXELS, NUM_STEPS, HORIZON = 32, 1024, 200, 25
MAX_TORQUE = 2.0


class Camera(gymnasium.Wrapper):
    """Pendulum-v1, hanging at first, that shows nothing but pictures.

    They are gymnasium's own, cut to the pendulum, grey, and averaged to 32 x 32 pixels.
    The arrow that gymnasium draws for the torque is left out. The angle and velocity
    are kept in ``states`` for those who judge; the agent is not shown them.
    """

    def __init__(self, seed=0):
        super().__init__(gymnasium.make("Pendulum-v1", render_mode="rgb_array"))
        self.unwrapped.screen_dim = 256
        self.rng = np.random.default_rng(seed)
        self.num_steps = 0

    def reset(self, *, seed=None, options=None):
        """Hang down, nearly at rest."""
        _, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.unwrapped.state = np.array([np.pi, 0]) + self.rng.uniform(-0.05, 0.05, 2)
        self.states = [self.unwrapped.state]
        return self.picture(), info

    def step(self, action):
        """Push, with an action between -1 and 1 that is scaled to the torque."""
        torque = MAX_TORQUE * np.asarray(action, np.float32)
        _, *outcome = self.env.step(torque)
        self.num_steps += 1
        self.states.append(self.unwrapped.state)
        return self.picture(), *outcome

    def picture(self):
        """A grey picture (1024,): 0 for the background and 1 for the pendulum."""
        self.unwrapped.last_u = None  # no arrow
        green = self.env.render()[64:192, 64:192, 1].astype(np.float32)
        ink = np.clip((255 - green) / 178, 0, 1)
        return ink.reshape(SIZE, 4, SIZE, 4).mean((1, 3)).reshape(-1)


class RandomTorque:
    """Torques at random, each held for some steps (or for one)."""

    def __init__(self, seed=0, change=0.15):
        self.rng = np.random.default_rng(seed)
        self.change = change
        self.reset()

    def reset(self, seed=None):
        """Begin with another torque."""
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.action = self.rng.uniform(-1, 1, 1)

    def act(self, observation):
        """The torque of the step."""
        if self.rng.random() < self.change:
            self.action = self.rng.uniform(-1, 1, 1)
        return self.action


class NoTorque:
    """Let it hang."""

    def reset(self, seed=None):
        """Nothing to forget."""

    def act(self, observation):
        """Nothing to do."""
        return np.zeros(1)


# planning with the true state, for comparison


class TrueProblem(ControlProblem):
    """The physics of the pendulum, whose state is its angle and velocity."""

    def move(self, weight, x, inputs):
        """One step of gymnasium's Pendulum-v1."""
        angle, velocity = x
        push = 15 * jnp.sin(angle) + 3 * MAX_TORQUE * inputs[0]
        velocity = jnp.clip(velocity + 0.05 * push, -8, 8)
        return jnp.stack([angle + 0.05 * velocity, velocity])


def true_cost(x, action=None):
    """What gymnasium charges for a state, but for the effort."""
    angle = jnp.mod(x[0] + jnp.pi, 2 * jnp.pi) - jnp.pi
    return angle**2 + 0.1 * x[1] ** 2


@jax.jit
def plan_from_truth(key, state, last):
    """A plan that knows the physics and sees the state."""
    weight = jnp.zeros((1, 2, 3))  # not used
    problem = TrueProblem(true_cost, true_cost, HORIZON, weight, state[None], -1.0, 1.0)
    return search(key, problem, jnp.concatenate([last[1:], last[-1:]]))


class TrueStateAgent:
    """Plans with the physics and the state of an environment."""

    def __init__(self, env, key):
        self.env, self.key = env, key

    def reset(self, seed=None):
        """Forget the last plan."""
        if seed is not None:
            self.key = random.key(seed)
        self.actions = jnp.zeros((HORIZON, 1))

    def act(self, observation):
        """The first action of a new plan."""
        self.key, key = random.split(self.key)
        state = jnp.asarray(self.env.unwrapped.state, jnp.float32)
        self.actions = plan_from_truth(key, state, self.actions).actions
        return np.asarray(self.actions[0])


def search(key, problem, start):
    """The cross-entropy method, with a budget for real time."""
    options = {"population": 128, "elites": 16, "num_steps": 4}
    return plan_by_sampling(key, problem, 1.0, start, **options)


# how good it is


def evaluate(env, agent, count=10):
    """Episodes of an agent, and the true states in them (count, T + 1, 2)."""
    episodes, states = [], []
    for _ in range(count):
        episodes.append(run_episode(env, agent, NUM_STEPS))
        states.append(np.stack(env.states))
    return episodes, np.stack(states)


def upright(states, last=20):
    """Which episodes end with the pendulum up: within 26 degrees for a second."""
    return np.all(np.cos(states[:, -last:, 0]) > 0.9, -1)


def report(name, episodes, states):
    """Print the mean return and how many are upright; return them."""
    totals = np.array([episode.total for episode in episodes])
    up = int(upright(states).sum())
    print(
        f"{name:34} {totals.mean():8.0f} ± {totals.std():4.0f}"
        f"   upright at the end: {up} of {len(totals)}",
        flush=True,
    )
    return {"returns": totals.round(1).tolist(), "upright": up}
