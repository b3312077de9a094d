# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Run as a program: SVI steps with sequences spread over 1, 2 and 8 devices, as JSON.

The devices are forced on the host, which has to be asked for before JAX starts.
"""

import json
import re
import sys

import jax
from jax import random
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns
from tests.models import decoder, encoder, matrix_prior, vector_prior

COUNTS = (1, 2, 8)
SEQUENCES, STEPS = 88, 7
COLLECTIVE = re.compile(
    r"= (.*) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\("
)


def model(y):
    """An LDS SVAE of which every device sees its own sequences."""
    start = vector_prior("init", 2)
    step = matrix_prior("dynamics", 0.9 * jnp.eye(2))
    with numpyro.plate("sequences", len(y)):
        chain = ns.LinearGaussianChain(*start, *step, num_steps=STEPS)
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Normal(decoder(x), 0.3).to_event(2), obs=y)


def recognition(y):
    with numpyro.plate("sequences", len(y)):
        return {"x": encoder(y)}


def messages(program):
    """Shapes that a compiled program sends between devices, outside loops and in."""
    loops, entry = program.split("\nENTRY ")
    return [[list(found) for found in COLLECTIVE.findall(x)] for x in (entry, loops)]


def run(svi, state, y, count):
    """Losses and parameters of a few steps on some devices, and what they send."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("sequences",))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    y = jax.device_put(y, NamedSharding(mesh, PartitionSpec("sequences")))
    step = jax.jit(svi.update).lower(state, y).compile()
    losses = []
    for _ in range(4):
        state, loss = step(state, y)
        losses.append(float(loss))
    params = jax.tree.leaves(svi.get_params(state))
    entry, loops = messages(step.as_text())
    return {
        "losses": losses,
        "params": [x for leaf in params for x in np.ravel(leaf).tolist()],
        "entry": entry,
        "loops": loops,
    }


def main():
    # Plain gradients: Adam would blow up the rounding error of a gradient near zero.
    optimizer = ns.svae_optimizer(optax.sgd(1e-4), 0.5)
    svi = SVI(model, ns.AutoSVAE(model, recognition), optimizer, ns.SVAE_ELBO())
    y = random.normal(random.key(1), (SEQUENCES, STEPS, 3))
    state = svi.init(random.key(0), y)
    json.dump({count: run(svi, state, y, count) for count in COUNTS}, sys.stdout)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
