# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Paths whose prior runs away before anything is seen, in single precision."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns

KEY = random.PRNGKey(0)
STEPS, SENSORS = 40, 20


def lorenz(x):
    """A step of a tenth of the path of Lorenz. A spread of one explodes."""
    a, b, c = 10.0 * x
    return x + 0.002 * jnp.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c])


def squares(x):
    """A step that squares what is far, again and again."""
    return x + 0.3 * x**2 - 0.1


def seen_through(kind, transition, size, spread):
    """A path behind a network with parameters; parts of the data are missing."""

    def model(y, seen):
        decoder = numpyro.param("decoder", random.normal(KEY, (size, SENSORS)))
        scale = numpyro.param("scale", jnp.array(0.1))
        known = jnp.zeros(size), spread * jnp.eye(size), lambda x, u: transition(x)
        chain = ns.NonlinearGaussianChain(
            *known, 0.01 * jnp.eye(size), num_steps=y.shape[1]
        )
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", chain)
            found = {
                "normal": lambda: dist.Normal(jnp.tanh(x @ decoder), scale),
                "poisson": lambda: dist.Poisson(jnp.exp(x @ decoder)),
            }[kind]()
            numpyro.sample("y", found.mask(seen[..., None]).to_event(2), obs=y)

    return model


def data_of(kind, size):
    """Sensors of waves, each sequence with phases of its own, and what is seen."""
    rng = np.random.default_rng(0)
    time = 0.2 * np.arange(STEPS)[:, None] + rng.uniform(0.0, 6.0, (4, 1, size))
    decoder = np.asarray(random.normal(KEY, (size, SENSORS)))
    level = np.sin(time) @ decoder
    y = {
        "normal": np.tanh(level) + 0.1 * rng.standard_normal(level.shape),
        "poisson": rng.poisson(np.exp(level)),
    }[kind]
    return jnp.asarray(y, jnp.float32), jnp.asarray(rng.random(level.shape[:2]) < 0.9)


@pytest.mark.parametrize(
    ("kind", "transition", "size", "spread"),
    [
        ("normal", lorenz, 3, 1.0),
        ("poisson", squares, 2, 1.0),
        ("normal", squares, 2, 1e-12),
    ],
    ids=["lorenz", "counts", "known-first-state"],
)
def test_sweeps_have_a_start_however_a_prior_runs_away(kind, transition, size, spread):
    """With no recognition function, sequences converge, and gradients are numbers."""
    model, data = seen_through(kind, transition, size, spread), data_of(kind, size)
    guide = ns.AutoSVAE(model, cubature=ns.Cubature("hermite", num_points=3))

    def loss_of(params):
        return ns.SVAE_ELBO().loss(KEY, params, model, guide, *data)

    params = {
        "decoder": random.normal(KEY, (size, SENSORS)),
        "scale": jnp.array(0.1),
    }
    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(gradient["decoder"]))
    assert guide.convergence(params, *data)["x"].residual <= 1
