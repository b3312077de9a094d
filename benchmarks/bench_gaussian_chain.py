# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Smoothing in a Gaussian chain, and its gradient, beside other packages.

Potentials vary by step and sequence, float32. Smoothed means, covariances, covariances
of neighbours and the log normaliser; and the value and gradient, with respect to
potentials and dynamics, of the log normaliser and a function of one posterior sample.
Potentials are diagonal, and, beside dynamax, full as well. TensorFlow Probability does
not give covariances of neighbours: its moments are the others. Writes
``results/gaussian_chain.json`` and its table.
"""

from __future__ import annotations

from collections.abc import Callable
import sys

import jax
import jax.numpy as jnp
import numpy as np
import peers
import timing

import numpyro_svae as ns

SIZES = [(64, 100, 4), (64, 100, 8), (1, 1000, 4), (16, 1000, 8), (1, 10000, 8)]
DIMENSIONS = [(64, 100, dim) for dim in (1, 2, 16, 32)]


def problem(batch: int, steps: int, dim: int) -> tuple[jax.Array, ...]:
    """Transition matrix, and locations and scales of potentials."""
    rng = np.random.default_rng(0)
    matrix = 0.99 * np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    loc = rng.normal(size=(batch, steps, dim))
    scale = rng.uniform(0.5, 1.5, size=loc.shape)
    return tuple(jnp.asarray(x, jnp.float32) for x in (matrix, loc, scale))


def shapes(batch: int, steps: int, dim: int) -> peers.Shapes:
    """What makes potentials full."""
    rng = np.random.default_rng(1)
    size = batch, steps, dim
    axes = np.linalg.qr(rng.normal(size=(*size, dim)))[0]
    logs = rng.uniform(-1.0, 1.0, size=size)
    values = np.exp(logs - logs.mean(-1, keepdims=True))
    both = (
        np.einsum("...ik,...k,...jk->...ij", axes, x, axes)
        for x in (values, 1 / values)
    )
    return peers.Shapes(*(jnp.asarray(x, jnp.float32) for x in both))


def potential(loc, scale, shapes=None) -> ns.GaussianPotential:
    if shapes is None:
        return ns.GaussianPotential.from_loc_scale(loc, scale)
    precision = shapes.precision / (scale[..., None] * scale[..., None, :])
    return ns.GaussianPotential(
        jnp.einsum("...ij,...j->...i", precision, loc), precision
    )


def ours(matrix, loc, scale, shapes=None):
    dim, steps = loc.shape[-1], loc.shape[-2]
    eye = jnp.eye(dim)
    chain = ns.LinearGaussianChain(
        jnp.zeros(dim),
        eye,
        matrix,
        peers.NOISE * eye,
        num_steps=steps,
        validate_args=False,
    )
    return chain.condition(potential(loc, scale, shapes))


def our_moments(*args):
    posterior, log_normalizer = ours(*args)
    cross = jnp.swapaxes(posterior.neighbor_covariance, -1, -2)
    return posterior.mean, posterior.covariance, log_normalizer, cross


def our_value(*args):
    posterior, log_normalizer = ours(*args)
    path = posterior.sample(jax.random.key(0))
    return jnp.sum(log_normalizer) + jnp.mean(jnp.sin(path))


MOMENTS = {
    "numpyro_svae": our_moments,
    "dynamax": peers.dynamax_moments,
    "cuthbert": peers.cuthbert_moments,
    "tfp": peers.tfp_moments,
}
VALUES = {
    "numpyro_svae": our_value,
    "dynamax": peers.dynamax_value,
    "cuthbert": peers.cuthbert_value,
    "tfp": peers.tfp_value,
}
TAKE_FULL = "numpyro_svae", "dynamax"


def gradient(value: Callable) -> Callable:
    return jax.value_and_grad(value, (0, 1, 2))


def rows(kind: str, size: tuple[int, int, int], names: tuple, args: tuple) -> list:
    """Moments and gradients of some packages."""
    ways = {name: (MOMENTS[name], args) for name in names}
    found = timing.compare(f"moments{kind} {size}", ways)
    ways = {name: (gradient(VALUES[name]), args) for name in names}
    found += timing.compare(f"gradient{kind} {size}", ways)
    print(*found, sep="\n", flush=True)
    return found


def main(sizes: list[tuple[int, int, int]]) -> None:
    table = []
    for size in sizes:
        args = problem(*size)
        table += rows("", size, tuple(MOMENTS), args)
        table += rows(", full,", size, TAKE_FULL, (*args, shapes(*size)))
    timing.write("gaussian_chain", table)


if __name__ == "__main__":
    every = SIZES + DIMENSIONS
    main(every[: int(sys.argv[1])] if len(sys.argv) > 1 else every)
