# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The table of tasks: what each environment is, and how what agents do is judged."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import gymnasium
import numpy as np
import physics
from physics import Body, Pushed
import pictures
from pictures import Pictures


@dataclass(frozen=True)
class Task:
    """What an environment is, and how it is judged.

    :param make_env: makes the environment, which has its state in ``unwrapped.state``.
    :param draw: maps a state to a picture, or to other numbers between 0 and 1.
    :param miss: maps the states of an episode to how far it was from what it should be.
    :param within: the largest miss of an episode that was good.
    :param read: maps states ``(..., S)`` to numbers that smoothed states should show.
    :param move: maps a state and an action to the next state: the physics.
    :param reward: of a state, without the effort.
    :param start: maps a random generator to a state in which an agent begins; random
        actions begin where the environment says, and so do agents by default.
    :param goal: maps a state to one at the goal of its episode, of which the agent is
        shown a picture; None if the reward says all.
    :param actions: number of entries of an action.
    :param positions: number of positions of a latent state.
    :param episode: number of observations of an episode of random actions that the
        environment does not end.
    :param rounds: number of times that episodes of the agent join the data.
    :param gathered: number of its episodes in a round.
    :param attempt: number of steps of an episode of an agent, at most.
    :param attempts: number of episodes of an agent.
    :param horizon: number of steps of a plan.
    :param camera: standard deviation of the noise of what is seen.
    :param noise: the same, as the model has it.
    :param film: maps what was seen, or imagined, ``(N, ...)`` to pictures.
    :param seconds: from one step to the next.
    :param effort: what a regulator of the true linearisation pays for a squared action;
        None where there is none to compare with.
    """

    make_env: Callable
    draw: Callable
    miss: Callable
    within: float
    read: Callable
    move: Callable
    reward: Callable
    start: Callable | None = None
    goal: Callable | None = None
    actions: int = 1
    positions: int = 3
    episode: int = 100
    rounds: int = 0
    gathered: int = 5
    attempt: int = 200
    attempts: int = 10
    horizon: int = 25
    camera: float = 0.02
    noise: float = 0.1
    film: Callable = np.asarray
    seconds: float = 0.05
    effort: float | None = None

    def make(self, seed, begin=True):
        """The environment.

        :param begin: whether episodes begin as those of agents do.
        """
        start = self.start if begin else None
        shown = self.draw, start, self.goal, self.camera, seed
        return Pictures(self.make_env(), *shown)

    def reached(self, episode, states):
        """Whether an episode was good; one that the environment ended was not."""
        return not episode.terminated and bool(self.miss(states) <= self.within)


def hang(rng):
    """A pendulum that hangs, nearly at rest."""
    return np.array([np.pi, 0.0]) + rng.uniform(-0.05, 0.05, 2)


def fallen(states):
    """How far a pendulum came down in the last second, of a length of one."""
    return 1 - np.min(np.cos(states[-20:, 0]))


def read_pendulum(states):
    """Sine and cosine of the angle, and the angular velocity."""
    angle, velocity = states[..., 0], states[..., 1]
    return np.stack([np.sin(angle), np.cos(angle), velocity], -1)


def off_goal(states):
    """How far a disc was from its goal in the last ten states, at most."""
    return np.max(np.linalg.norm(states[-10:, :2] - states[-10:, 4:], axis=-1))


def read_disc(states):
    """Position and velocity of a disc."""
    return states[..., :4]


def any_push():
    """gymnasium's CartPole-v1 under any force."""
    return Pushed(gymnasium.make("CartPole-v1", disable_env_checker=True))


def stand(rng):
    """A cart at rest in the middle, with a pole that is nearly upright."""
    return rng.uniform(-0.05, 0.05, 4)


def hang_below(rng):
    """A cart at rest in the middle, with a pole that hangs."""
    return np.array([0.0, 0.0, np.pi, 0.0]) + rng.uniform(-0.05, 0.05, 4)


def lean(rng):
    """A cart that is away from the middle, with a pole that leans up to 9 degrees."""
    return rng.uniform(-1, 1, 4) * np.array([0.8, 0.3, 0.15, 0.3])


def unbalanced(states):
    """Largest share of what gymnasium allows: 12 degrees, and the track."""
    return max(
        np.max(np.abs(states[:, 2])) / np.radians(12),
        np.max(np.abs(states[:, 0])) / physics.TRACK,
    )


def below(states):
    """How far a pole came down in the last two seconds, of a length of one."""
    return 1 - np.min(np.cos(states[-50:, 2]))


def read_cart_pole(states):
    """Position, sine and cosine of the angle, and the two velocities."""
    place, speed, angle, turn = np.moveaxis(states, -1, 0)
    return np.stack([place, np.sin(angle), np.cos(angle), speed, turn], -1)


def off_target(states):
    """How far the tip of an arm was from its target in the last ten states, at most."""
    tips = np.asarray(physics.joints(states[-10:])[1])
    return np.max(np.linalg.norm(tips - physics.TARGET, axis=-1))


def read_arm(states):
    """Sines and cosines of the angles, and angular velocities."""
    angles = states[..., :2]
    return np.concatenate([np.sin(angles), np.cos(angles), states[..., 2:]], -1)


PENDULUM = Task(
    partial(gymnasium.make, "Pendulum-v1"),
    pictures.draw_pendulum,
    fallen,
    0.1,
    read_pendulum,
    physics.move_pendulum,
    physics.pendulum_reward,
    start=hang,
)
CART_POLE = Task(
    partial(
        Body,
        physics.begin_cart_pole,
        physics.move_cart_pole,
        physics.cart_pole_reward,
    ),
    pictures.draw_cart_pole,
    unbalanced,
    1.0,
    read_cart_pole,
    physics.move_cart_pole,
    physics.cart_pole_reward,
    start=stand,
    episode=30,
    seconds=0.04,
)
TASKS = {
    "pendulum": PENDULUM,
    "pendulum-states": replace(
        PENDULUM,
        draw=pictures.scale_pendulum,
        film=pictures.redraw_pendulum,
        camera=0.0,
        noise=0.02,
    ),
    "point-mass": Task(
        partial(Body, physics.begin_disc, physics.move_disc, actions=2),
        pictures.draw_disc,
        off_goal,
        0.15,
        read_disc,
        physics.move_disc,
        physics.disc_reward,
        goal=lambda state: np.concatenate([state[4:], np.zeros(2), state[4:]]),
        actions=2,
        attempt=60,
        attempts=20,
    ),
    "cart-pole": CART_POLE,
    "cart-pole-swing-up": replace(
        CART_POLE,
        make_env=partial(
            Body,
            physics.begin_anywhere,
            physics.move_cart_pole,
            physics.height_reward,
        ),
        miss=below,
        within=0.1,
        reward=physics.height_reward,
        start=hang_below,
        episode=100,
        horizon=35,
    ),
    "cart-pole-states": replace(
        CART_POLE,
        make_env=any_push,
        draw=pictures.scale_cart_pole,
        move=physics.push_twice,
        start=lean,
        positions=5,
        film=pictures.redraw_cart_pole,
        camera=0.0,
        noise=0.02,
        rounds=5,
        horizon=50,
        effort=0.01,
    ),
    "reacher": Task(
        partial(Body, physics.begin_arm, physics.move_arm, physics.arm_reward, 2),
        pictures.draw_arm,
        off_target,
        0.15,
        read_arm,
        physics.move_arm,
        physics.arm_reward,
        actions=2,
        positions=4,
        attempt=100,
    ),
}
