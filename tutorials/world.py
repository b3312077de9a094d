# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A model of what is seen, done and gained, which knows no task.

A state has positions, which the networks that encode and decode what is seen look at,
and velocities, which they do not. A network says how states move under actions, and
another one what they are worth.
"""

from dataclasses import dataclass

from flax import nnx
import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.distributions import constraints
import optax
from unrolled import unroll

import numpyro_svae as ns

REWARD_NOISE = 0.2
STRIDE = 0.3  # how far a velocity of one moves a position in a step


@dataclass(frozen=True)
class Sizes:
    """What differs between tasks.

    :param pixels: number of entries of an observation, which are between 0 and 1.
    :param actions: number of entries of an action, which are between -1 and 1.
    :param positions: number of positions of a state, and of velocities.
    :param noise: standard deviation of the noise of observations, which is held: if it
        were learnt, pictures would drown the dynamics.
    """

    pixels: int
    actions: int
    positions: int = 3
    noise: float = 0.1

    @property
    def state(self):
        """Number of entries of a state."""
        return 2 * self.positions


class Layer(nnx.Module):
    """An affine map. Its weights are ``(outputs, inputs)``: a gradient of this shape is
    several times faster on a processor, where there are many inputs, than the other.
    """

    def __init__(self, inputs, outputs, rngs, scale=1.0):
        size = outputs, inputs
        self.weight = nnx.Param(
            scale / inputs**0.5 * random.normal(rngs.params(), size)
        )
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x):
        return x @ self.weight.T + self.bias


class MLP(nnx.Module):
    """Two hidden layers."""

    def __init__(self, inputs, outputs, width, seed, last=1.0):
        rngs = nnx.Rngs(seed)
        self.first, self.second = (
            Layer(inputs, width, rngs),
            Layer(width, width, rngs),
        )
        self.last = Layer(width, outputs, rngs, last)

    def __call__(self, x):
        return self.last(nnx.gelu(self.second(nnx.gelu(self.first(x)))))


class Encoder(nnx.Module):
    """Positions, and how sure they are: a linear map, and a network that amends it.

    :param linear: the map at first: weights ``(pixels, positions)``, and a last row
        that is added.
    """

    def __init__(self, linear, width, seed):
        self.linear = nnx.Param(jnp.asarray(linear.T))
        pixels, count = linear.shape[0] - 1, linear.shape[1]
        self.network = MLP(pixels, 2 * count, width, seed, last=0.1)

    def __call__(self, frames):
        shift, scale = jnp.split(self.network(frames), 2, -1)
        return frames @ self.linear[:, :-1].T + self.linear[:, -1] + shift, scale


def straight(x, y, blur):
    """The affine map of ``x (N, P)`` to ``y (N, Q)`` that is best if ``x`` is blurred.

    :param blur: standard deviation of what is added to ``x``.
    :return: weights ``(P, Q)`` above a row that is added.
    """
    shift, centre = x - x.mean(0), y.mean(0)
    square = shift.T @ shift + len(x) * blur**2 * np.eye(x.shape[1])
    weights = np.linalg.solve(square, shift.T @ (y - centre))
    return np.float32(np.vstack([weights, centre - x.mean(0) @ weights]))


def components(frames, count, noise):
    """The map of frames ``(N, pixels)`` to their first principal components.

    They have a mean of zero and a variance of one, but those that are weaker than the
    noise.

    :return: weights ``(pixels, count)`` above a row that is added.
    """
    values, vectors = np.linalg.eigh(np.cov(frames.T))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    weights = np.zeros((frames.shape[1] + 1, count), np.float32)
    weights[:-1, : len(values)] = vectors / np.sqrt(np.maximum(values, 0) + noise**2)
    weights[-1] = -frames.mean(0) @ weights[:-1]
    return weights


def find(network, frames):
    """Where what is seen is."""
    return network(frames)[0]


def draw(network, positions):
    """What is seen at positions."""
    return nnx.sigmoid(network(positions) - 2.0)


def regress(network, function, x, y, num_steps=2000, batch=256, blur=0.1):
    """A network that was fitted to predict ``y (N, Q)`` from ``x (N, P)``.

    :param function: of the network and some ``x``: the prediction.
    :param blur: standard deviation of what is added to ``x``.
    """
    graph, params = nnx.split(network, nnx.Param)
    x, y, rule = jnp.asarray(x), jnp.asarray(y), optax.adam(2e-3)

    def loss(params, key):
        pick, shift = random.split(key)
        index = random.randint(pick, (batch,), 0, len(x))
        noisy = x[index] + blur * random.normal(shift, (batch, x.shape[1]))
        return jnp.mean((function(nnx.merge(graph, params), noisy) - y[index]) ** 2)

    def step(carry, key):
        params, state = carry
        change, state = rule.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, change), state), None

    @jax.jit
    def run(params):
        keys = random.split(random.key(0), num_steps)
        return jax.lax.scan(step, (params, rule.init(params)), keys)[0][0]

    return nnx.merge(graph, run(params))


class World:
    """The model of what is seen, done and gained, and its recognition function.

    :param sizes: those of the task.
    """

    def __init__(self, sizes):
        self.sizes = sizes
        linear = np.zeros((sizes.pixels + 1, sizes.positions), np.float32)
        self.finding = Encoder(linear, 128, seed=4)
        self.drawing = MLP(sizes.positions, sizes.pixels, 128, seed=1)

    def look(self, frames):
        """Let the networks begin at a map of what is seen.

        Neighbouring pictures have neighbouring places in it, while a network that
        begins at random may tear apart what belongs together, and never mends it. Where
        there are as many positions as entries of what is seen, there is nothing to
        unroll.

        :param frames: what was seen, ``(..., pixels)``.
        """
        sizes = self.sizes
        frames = np.reshape(frames, (-1, sizes.pixels))
        if sizes.pixels <= sizes.positions:
            linear = components(frames, sizes.positions, sizes.noise)
            self.finding = Encoder(linear, 128, seed=4)
        else:
            chosen, places = unroll(frames, sizes.positions)
            given = frames[chosen], places
            finding = Encoder(straight(*given, sizes.noise), 128, seed=4)
            self.finding = regress(finding, find, *given, blur=sizes.noise)
        found = np.asarray(find(self.finding, frames))
        self.drawing = regress(self.drawing, draw, found, frames)

    def decode(self, x):
        """What is seen of states: it shows positions, not velocities."""
        network = nnx_module("decoder", self.drawing)
        return draw(network, x[..., : self.sizes.positions])

    def worth(self, x):
        """The reward that is expected in a state, in the units of training."""
        return nnx_module("worth", MLP(self.sizes.state, 1, 32, seed=2))(x)[..., 0]

    def transition(self):
        """The mean of the next state: velocities move positions, and a network both."""
        count, size = self.sizes.positions, self.sizes.state
        network = MLP(size + self.sizes.actions, size, 128, seed=3, last=0.1)
        network = nnx_module("transition", network)

        def step(x, action):
            moved = jnp.concatenate([x[count:], jnp.zeros_like(x[count:])])
            return x + STRIDE * (moved + network(jnp.concatenate([x, action])))

        return step

    def model(self, frames, actions, rewards=None, noise=None):
        """Episodes, or windows of them: ``(N, T, ...)``, ``(N, T - 1, ...)``.

        :param noise: of observations, while it is not yet that of the sizes.
        """
        size = self.sizes.state
        kicks = numpyro.param(
            "kicks", jnp.full(size, 0.1), constraint=constraints.positive
        )
        with numpyro.plate("windows", len(frames)):
            chain = ns.NonlinearGaussianChain(
                jnp.zeros(size),
                jnp.eye(size),
                self.transition(),
                jnp.diag(kicks**2 + 1e-6),
                inputs=actions,
            )
            x = numpyro.sample("x", chain)
            noise = self.sizes.noise if noise is None else noise
            seen = dist.Normal(self.decode(x), noise).to_event(2)
            numpyro.sample("frames", seen, obs=frames)
            if rewards is not None:
                worth = self.worth(x[..., :-1, :])
                gained = dist.Normal(worth, REWARD_NOISE).to_event(1)
                numpyro.sample("rewards", gained, obs=rewards)

    def recognition(self, frames, actions, rewards=None, noise=None):
        """What one observation says of its state: where it is, not how fast."""
        loc, scale = nnx_module("encoder", self.finding)(frames)
        precision = 1 / (nnx.softplus(scale - 1) + 0.01) ** 2
        silent = jnp.zeros_like(loc)
        vector = jnp.concatenate([precision * loc, silent], -1)
        precision = jnp.concatenate([precision, silent], -1)
        return {"x": ns.GaussianPotential(vector, precision)}
