# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs and data that the benchmarks share: SVAEs of a mixture and of dynamics."""

from __future__ import annotations

from itertools import pairwise

from flax import nnx
import jax
import jax.numpy as jnp
import numpyro
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist

import numpyro_svae as ns


class GaussianNet(nnx.Module):
    """A perceptron that returns a location and a scale."""

    def __init__(self, sizes: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        widths = (*sizes[:-1], 2 * sizes[-1])
        pairs = pairwise(widths)
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairs])

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x))
        loc, scale = jnp.split(self.layers[-1](x), 2, -1)
        return loc, jax.nn.softplus(scale) + 1e-3


def bouncing_dots(key, num_sequences=512, num_steps=50, num_pixels=10):
    """A dot that bounces between two walls, seen by a row of pixels.

    The position is a triangle wave of speed 0.75 over 10 units of time, sequence ``i``
    starts at phase ``i / 8``, the dot is a Gaussian bump of width 0.15 on [-1, 1], and
    pixels have noise of standard deviation 0.06 (Johnson et al., NIPS 2016, section 6).
    """
    time = jnp.linspace(0.0, 10.0, num_steps, endpoint=False)
    phase = jnp.arange(num_sequences) / 8
    wave = phase[:, None] + 0.75 * time
    position = jnp.abs((wave + 1) % 4 - 2) - 1
    pixels = jnp.linspace(-1, 1, num_pixels)
    clean = jnp.exp(-0.5 * ((position[..., None] - pixels) / 0.15) ** 2)
    return clean + 0.06 * jax.random.normal(key, clean.shape)


def pinwheel(key, arms=5, per_arm=100):
    """Points ``(N, 2)`` of five bent arms (Johnson et al., NIPS 2016, section 6)."""
    noise = jax.random.normal(key, (2, arms, per_arm))
    radius, across = 1 + 0.3 * noise[0], 0.05 * noise[1]
    angle = 2 * jnp.pi * jnp.arange(arms)[:, None] / arms + 0.25 * jnp.exp(radius)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    points = [cos * radius - sin * across, sin * radius + cos * across]
    return jnp.stack(points, -1).reshape(-1, 2)


def network(name, sizes, seed):
    """A perceptron whose parameters are those of the program that calls this."""
    return nnx_module(name, GaussianNet(sizes, rngs=nnx.Rngs(seed)))


def recognition_of(dim, hidden, num_pixels, event_dim):
    """A recognition function of states ``x`` of ``dim`` dimensions.

    :param event_dim: axes of a datum: 1 for vectors, 2 for sequences of them.
    """

    def recognition(data, batch_size=None):
        encoder = network("encoder", (num_pixels, *hidden[::-1], dim), 1)
        with numpyro.plate("data", data.shape[0], batch_size):
            here = numpyro.subsample(data, event_dim)
            return {"x": ns.GaussianPotential.from_loc_scale(*encoder(here))}

    return recognition


def observe(decoder, x, data, event_dim):
    y = dist.Normal(*decoder(x)).to_event(event_dim)
    numpyro.sample("y", y, obs=numpyro.subsample(data, event_dim))


def initial_prior(dim):
    """The Gaussian that sequences start from."""
    prior = ns.NormalInverseWishart(jnp.zeros(dim), 1.0, dim + 2.0, jnp.eye(dim))
    return ns.sample("init", prior)


def dynamics_prior(dim):
    """Transitions with a bias."""
    prior = ns.MatrixNormalInverseWishart(
        jnp.eye(dim, dim + 1), jnp.eye(dim + 1), dim + 2.0, 1e-2 * jnp.eye(dim)
    )
    return ns.sample("dynamics", prior)


def mixture_svae(components, dim, hidden, num_pixels):
    """Model and recognition function of a mixture SVAE."""

    def model(data, batch_size=None):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
        with numpyro.plate("components", components):
            prior = ns.NormalInverseWishart(
                jnp.zeros(dim), 0.1, dim + 2.0, 0.5 * jnp.eye(dim)
            )
            loc, cov = ns.sample("component", prior)
        decoder = network("decoder", (dim, *hidden, num_pixels), 0)
        with numpyro.plate("data", data.shape[0], batch_size):
            z = numpyro.sample("z", dist.Categorical(weights))
            x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov[z]))
            observe(decoder, x, data, 1)

    return model, recognition_of(dim, hidden, num_pixels, 1)


def lds_svae(dim, hidden, num_pixels):
    """Model and recognition function of an LDS SVAE with a bias in its dynamics."""

    def model(data, batch_size=None):
        num_sequences, num_steps, _ = data.shape
        start, step = initial_prior(dim), dynamics_prior(dim)
        decoder = network("decoder", (dim, *hidden, num_pixels), 0)
        with numpyro.plate("data", num_sequences, batch_size):
            bias = jnp.ones((num_steps - 1, 1))
            chain = ns.LinearGaussianChain(
                *start, *step, inputs=bias, num_steps=num_steps
            )
            observe(decoder, numpyro.sample("x", chain), data, 2)

    return model, recognition_of(dim, hidden, num_pixels, 2)


def switching_svae(states, dim, hidden, num_pixels):
    """The same with dynamics that a chain of discrete states picks."""

    def model(data, batch_size=None):
        num_sequences, num_steps, _ = data.shape
        initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(states)))
        start = initial_prior(dim)
        with numpyro.plate("states", states):
            sticky = jnp.ones(states) + 10 * jnp.eye(states)
            rows = numpyro.sample("rows", dist.Dirichlet(sticky))
            weight, noise = dynamics_prior(dim)
        decoder = network("decoder", (dim, *hidden, num_pixels), 0)
        with numpyro.plate("data", num_sequences, batch_size):
            z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, num_steps))
            chain = ns.LinearGaussianChain(
                *start,
                weight[z[..., 1:]],
                noise[z[..., 1:]],
                inputs=jnp.ones((num_steps - 1, 1)),
                num_steps=num_steps,
            )
            observe(decoder, numpyro.sample("x", chain), data, 2)

    return model, recognition_of(dim, hidden, num_pixels, 2)
