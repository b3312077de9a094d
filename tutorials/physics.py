# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How the bodies of the tasks move, and what their states are worth.

Each motion maps a state and an action between -1 and 1 to the next state. It is written
once, in JAX, for the environment and for a planner that knows it.
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

WALL = 0.8  # the centre of the disc stays within
TRACK = 2.4  # half of the length of the track of the cart, in metres
TARGET = np.array([-0.35, 0.55])  # of the tip of the arm
LINK = 0.43  # length of each of its two links


class Body(gymnasium.Env):
    """An environment that shows its state, and is that of its physics.

    :param begin: maps a random generator to a state to begin with.
    :param move: maps a state and an action to the next state.
    :param reward: of a state; None for an environment that pays nothing.
    :param actions: number of entries of an action, which are between -1 and 1.
    """

    def __init__(self, begin, move, reward=None, actions=1):
        self.begin, self.move = begin, jax.jit(move)
        self.reward = jax.jit(reward) if reward else lambda state: 0.0
        space = gymnasium.spaces.Box
        self.action_space = space(-1.0, 1.0, (actions,))
        size = begin(np.random.default_rng(0)).shape
        self.observation_space = space(-np.inf, np.inf, size)

    def reset(self, *, seed=None, options=None):
        """Begin an episode."""
        super().reset(seed=seed)
        self.state = self.begin(self.np_random)
        return np.float32(self.state), {}

    def step(self, action):
        """Act; the reward is that of the state before."""
        state = np.float32(self.state)
        self.state = np.asarray(self.move(state, np.float32(action)))
        return self.state, float(self.reward(state)), False, False, {}


class Pushed(gymnasium.Wrapper):
    """gymnasium's CartPole-v1 under any force of up to 5 N, not -10 or 10 N alone.

    ``control`` plans actions that are vectors of numbers. The environment has a choice
    of two, the sign of a force whose size is an attribute: this sets both. A force acts
    for two steps, and the reward is that of ``cart_pole_reward`` for the state before.
    An episode ends where the track does, but not when the pole falls. It begins with a
    pole that leans, by up to 0.2 radians, unless ``options`` say otherwise.
    """

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        env.unwrapped.theta_threshold_radians = np.inf
        self.reward = jax.jit(cart_pole_reward)

    def reset(self, *, seed=None, options=None):
        """Begin an episode."""
        bounds = {"low": -0.2, "high": 0.2}
        return self.env.reset(seed=seed, options=bounds | (options or {}))

    def step(self, action):
        """Push."""
        self.unwrapped.force_mag = 5 * abs(float(action[0]))
        reward = float(self.reward(np.float32(self.unwrapped.state)))
        for _ in range(2):
            seen, _, ended, *rest = self.env.step(int(action[0] > 0))
            if ended:
                break
        return seen, reward, ended, *rest


# a pendulum: angle, which is zero when it stands upright, and angular velocity


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


# a disc on a table: its position, its velocity, and where it should be


def begin_disc(rng):
    """Anywhere, at rest, with a goal anywhere."""
    place, goal = rng.uniform(-WALL, WALL, (2, 2))
    return np.concatenate([place, np.zeros(2), goal])


def move_disc(x, action, step=0.05):
    """A force against viscous friction; walls stop the disc, with no rebound."""
    place, velocity, goal = jnp.split(x, 3)
    velocity = velocity + step * (6 * action - 3 * velocity)
    reached = place + step * velocity
    place = jnp.clip(reached, -WALL, WALL)
    velocity = jnp.where(place == reached, velocity, 0.0)
    return jnp.concatenate([place, velocity, goal])


def disc_reward(x):
    """How near the disc is to its goal; the environment does not pay it."""
    return -jnp.sum((x[:2] - x[4:]) ** 2)


# a cart with a pole: position, velocity, angle (zero upright), angular velocity


def begin_cart_pole(rng):
    """On the inner half of the track, with a pole that leans up to 30 degrees."""
    return rng.uniform(-1, 1, 4) * np.array([1.2, 0.5, 0.5, 0.5])


def begin_anywhere(rng):
    """On the inner half of the track, with a pole at any angle."""
    return rng.uniform(-1, 1, 4) * np.array([1.2, 0.5, np.pi, 1.0])


def push_cart(x, force, step=0.02):
    """One step of gymnasium's CartPole-v1 under a force in Newton.

    The equations are those of Barto, Sutton and Anderson (1983) without friction: a
    cart of 1 kg, a pole of 0.1 kg and 1 m.
    """
    _, speed, angle, turn = x
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    pull = (force + 0.05 * turn**2 * sine) / 1.1
    turning = (9.8 * sine - cosine * pull) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    speeding = pull - 0.05 * turning * cosine / 1.1
    return x + step * jnp.stack([speed, speeding, turn, turning])


def push_twice(x, action):
    """Two steps under a force of up to 5 N, as long as the cart is on its track."""
    return push_cart(push_cart(x, 5 * action[0]), 5 * action[0])


def move_cart_pole(x, action):
    """Two steps under a force of up to 5 N; the ends of the track stop the cart."""
    for _ in range(2):
        x = push_cart(x, 5 * action[0])
        outside = jnp.abs(x[0]) > TRACK
        x = x.at[0].set(jnp.clip(x[0], -TRACK, TRACK))
        x = x.at[1].set(jnp.where(outside, 0.0, x[1]))
    return x


def cart_pole_reward(x):
    """Most for a pole that is upright on a cart in the middle."""
    return jnp.exp(-((x[2] / 0.4) ** 2)) - 0.1 * x[0] ** 2


def height_reward(x):
    """Most for a pole that is upright on a cart in the middle; all angles count."""
    return jnp.cos(x[2]) - 0.1 * x[0] ** 2


# an arm of two links on a table: angles of the joints, and their velocities


def begin_arm(rng):
    """Any angles, at rest."""
    return np.concatenate([rng.uniform(-np.pi, np.pi, 2), np.zeros(2)])


def turn_arm(x, torques, friction):
    """Derivatives of the state of an arm with a mass of one at the end of each link.

    The links have a length of one; the second angle is relative to the first link.
    """
    first, second = x[2:]
    sine, cosine = jnp.sin(x[1]), jnp.cos(x[1])
    spin = jnp.stack([-second * (2 * first + second), first**2]) * sine
    push = torques - friction * x[2:] - spin
    inertia = 3 + 2 * cosine, 1 + cosine, 1.0
    turning = jnp.stack(
        [
            inertia[2] * push[0] - inertia[1] * push[1],
            inertia[0] * push[1] - inertia[1] * push[0],
        ]
    ) / (inertia[0] * inertia[2] - inertia[1] ** 2)
    return jnp.concatenate([x[2:], turning])


def move_arm(x, action, step=0.05, friction=3.0):
    """A step by the rule of Runge and Kutta, of fourth order."""
    torques = jnp.array([20.0, 6.0]) * action
    slopes = [turn_arm(x, torques, friction)]
    for share in (0.5, 0.5, 1.0):
        slopes.append(turn_arm(x + share * step * slopes[-1], torques, friction))
    first, second, third, fourth = slopes
    return x + step / 6 * (first + 2 * second + 2 * third + fourth)


def joints(x):
    """Where the elbow and the tip of the arm are, ``(..., 2)`` each."""
    first, both = x[..., 0], x[..., 0] + x[..., 1]
    elbow = LINK * jnp.stack([jnp.cos(first), jnp.sin(first)], -1)
    return elbow, elbow + LINK * jnp.stack([jnp.cos(both), jnp.sin(both)], -1)


def arm_reward(x):
    """How near the tip is to its target, less a little for speed."""
    away = jnp.sqrt(jnp.sum((joints(x)[1] - TARGET) ** 2) + 1e-4)
    return -away - 0.01 * jnp.sum(x[2:] ** 2)
