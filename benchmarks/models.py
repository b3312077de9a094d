# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The program and the data that the benchmarks share: an LDS SVAE on images."""

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


def lds_svae(dim, hidden, num_pixels):
    """Model and recognition function of an LDS SVAE with a bias in its dynamics."""

    def model(data, batch_size=None):
        num_sequences, num_steps, _ = data.shape
        eye, bias = jnp.eye(dim), jnp.ones((num_steps - 1, 1))
        mu0, cov0 = ns.sample(
            "init", ns.NormalInverseWishart(jnp.zeros(dim), 1.0, dim + 2.0, eye)
        )
        prior = ns.MatrixNormalInverseWishart(
            jnp.eye(dim, dim + 1), jnp.eye(dim + 1), dim + 2.0, 1e-2 * eye
        )
        weight, cov = ns.sample("dynamics", prior)
        net = GaussianNet((dim, *hidden, num_pixels), rngs=nnx.Rngs(0))
        decoder = nnx_module("decoder", net)
        with numpyro.plate("sequences", num_sequences, batch_size):
            chain = ns.LinearGaussianChain(
                mu0, cov0, weight, cov, inputs=bias, num_steps=num_steps
            )
            x = numpyro.sample("x", chain)
            y = dist.Normal(*decoder(x)).to_event(2)
            numpyro.sample("y", y, obs=numpyro.subsample(data, 2))

    def recognition(data, batch_size=None):
        net = GaussianNet((num_pixels, *hidden[::-1], dim), rngs=nnx.Rngs(1))
        encoder = nnx_module("encoder", net)
        with numpyro.plate("sequences", data.shape[0], batch_size):
            here = numpyro.subsample(data, 2)
            return {"x": ns.GaussianPotential.from_loc_scale(*encoder(here))}

    return model, recognition
