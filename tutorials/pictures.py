# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is seen of states, mostly pictures, and environments that show nothing else."""

import gymnasium
import numpy as np
from physics import TRACK, joints

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


def scale_pendulum(state):
    """What gymnasium shows of a pendulum, as numbers between 0 and 1."""
    angle, velocity = state[:2]
    return 0.5 + 0.5 * np.array([np.cos(angle), np.sin(angle), velocity / 8])


def redraw_pendulum(seen):
    """Pictures ``(N, 32, 32)`` of the pendulums that numbers ``(N, 3)`` stand for."""
    cosine, sine = np.moveaxis(np.asarray(seen)[:, :2] - 0.5, -1, 0)
    return np.stack([draw_pendulum([each]) for each in np.arctan2(sine, cosine)])


def draw_disc(state):
    """A disc where it is; its goal is not drawn."""
    return draw_rod(state[:2], state[:2], half_width=0.18)


def draw_cart_pole(state):
    """A cart on a track that is as wide as the picture, with a pole that is not."""
    place, angle = state[0] / TRACK * 0.8, state[2]
    cart = draw_rod((place - 0.1, 0), (place + 0.1, 0), half_width=0.1)
    tip = place + 0.8 * np.sin(angle), 0.8 * np.cos(angle)
    return np.maximum(cart, draw_rod((place, 0), tip))


def scale_cart_pole(state):
    """A cart and its pole as numbers between 0 and 1, with no jump of the angle."""
    place, speed, angle, turn = state
    seen = [place / 4.8, np.sin(angle), np.cos(angle), speed / 6, turn / 12]
    return 0.5 + 0.5 * np.clip(seen, -1, 1)


def redraw_cart_pole(seen):
    """Pictures ``(N, 32, 32)`` of the cart-poles that numbers ``(N, 5)`` stand for."""
    place, sine, cosine = np.moveaxis(2 * np.asarray(seen)[:, :3] - 1, -1, 0)
    states = np.stack([4.8 * place, 0 * place, np.arctan2(sine, cosine)], -1)
    return np.stack(list(map(draw_cart_pole, states)))


def draw_arm(state):
    """An arm of two links, of which the first is thicker."""
    elbow, tip = (np.asarray(x) for x in joints(np.asarray(state)))
    upper = draw_rod((0, 0), elbow, half_width=0.12)
    return np.maximum(upper, draw_rod(elbow, tip))


class Pictures(gymnasium.Wrapper):
    """An environment that shows nothing but pictures, or whatever is made of its state.

    The states are kept in ``states`` for those who judge; the agent is not shown them.

    :param env: an environment that has its state in ``unwrapped.state``.
    :param draw: maps a state to a picture ``(32, 32)``, or to other numbers between 0
        and 1.
    :param start: maps a random generator to a state to begin with; by default the
        environment chooses.
    :param goal: maps a state to one that is at the goal of its episode; None if there
        is no goal but the reward.
    :param noise: standard deviation of the noise of the camera.
    :param seed: of the beginnings and of the noise.
    """

    def __init__(self, env, draw, start=None, goal=None, noise=0.02, seed=0):
        super().__init__(env)
        self.draw, self.start, self.noise = draw, start, noise
        self._goal = goal
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
        return self.picture(self.states[0]), info

    def step(self, action):
        """Act."""
        _, *outcome = self.env.step(action)
        self.states.append(np.array(self.unwrapped.state))
        return self.picture(self.states[-1]), *outcome

    def goal(self):
        """A picture of the goal of this episode; None if there is none."""
        return None if self._goal is None else self.picture(self._goal(self.states[0]))

    def picture(self, state):
        """A grey picture, flat: 0 for the background and 1 for what is drawn."""
        picture = self.draw(state)
        noisy = picture + self.noise * self.rng.standard_normal(picture.shape)
        return noisy.reshape(-1).astype(np.float32)
