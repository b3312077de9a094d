# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Small data sets for the programs of ``tests.models``, and ways to run them."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import optax

import numpyro_svae as ns


def clusters(count=30, dim=2, seed=0):
    """Points of three separate clusters, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.array([[0.0, 0.0, 0.0], [3.0, 1.0, -1.0], [-2.0, 3.0, 1.0]])[:, :dim]
    y = centres[labels] + 0.6 * rng.standard_normal((count, dim))
    return jnp.asarray(y), jnp.asarray(labels)


def sequences(count=4, steps=5, outputs=3, seed=0):
    """Observations of noisy rotations, and actions between them."""
    rng = np.random.default_rng(seed)
    phase = 0.5 * np.arange(steps) + 6 * rng.random((count, 1))
    waves = [np.sin(phase + k) for k in range(outputs)]
    y = np.stack(waves, -1) + 0.2 * rng.standard_normal((count, steps, outputs))
    actions = rng.standard_normal((count, steps - 1, 1))
    return jnp.asarray(y), jnp.asarray(actions)


def make_svi(model, guide, natural=1.0, neural=None, **loss):
    """An SVI with natural-gradient steps."""
    neural = optax.adam(1e-2) if neural is None else neural
    optimizer = ns.svae_optimizer(neural, natural)
    return SVI(model, guide, optimizer, ns.SVAE_ELBO(**loss))


def steps(svi, count, *args, seed=0, **kwargs):
    """Parameters after some updates, and the losses on the way."""
    state = svi.init(random.PRNGKey(seed), *args, **kwargs)

    def update(state, _):
        return svi.update(state, *args, **kwargs)

    state, losses = jax.jit(lambda s: jax.lax.scan(update, s, length=count))(state)
    return svi.get_params(state), losses
