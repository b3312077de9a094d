# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Run as a program: what 1, 2 and 8 devices do with the same work, as JSON.

SVI steps with sequences spread over the devices, and the gradient of one long chain
with its steps spread over them. The devices are forced on the host, which has to be
asked for before JAX starts.
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
    """Shapes that a compiled program sends between devices, outside loops and in.

    A branch that is not in a loop is neither: what it sends, it sends when it is taken.
    """
    names = re.findall(r"^(?:ENTRY )?%?([\w.-]+) \(.*{$", program, re.M)
    texts = re.split(r"^(?:ENTRY )?%?[\w.-]+ \(.*{$", program, flags=re.M)[1:]
    bodies = dict(zip(names, texts, strict=True))
    loops, found = set(), set(re.findall(r"(?:body|condition)=%?([\w.-]+)", program))
    while found:
        loops |= found
        called = {n for name in found for n in re.findall(r"%([\w.-]+)", bodies[name])}
        found = (called & bodies.keys()) - loops
    assert loops
    inside = "".join(bodies[name] for name in loops)
    entry = program.split("\nENTRY ")[1]
    return [[list(sent) for sent in COLLECTIVE.findall(x)] for x in (entry, inside)]


def place(mesh, tree, *axes):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))


def numbers(tree):
    return [x for leaf in jax.tree.leaves(tree) for x in np.ravel(leaf).tolist()]


def learn(svi, state, y, mesh):
    """Losses and parameters of a few steps, and what is sent in a step."""
    state, y = place(mesh, state), place(mesh, y, "devices")
    step = jax.jit(svi.update).lower(state, y).compile()
    losses = []
    for _ in range(4):
        state, loss = step(state, y)
        losses.append(float(loss))
    entry, loops = messages(step.as_text())
    params = numbers(svi.get_params(state))
    return {"losses": losses, "params": params, "entry": entry, "loops": loops}


def long_chain(matrix, loc):
    """A function of the posterior of one chain."""
    eye = jnp.eye(len(matrix))
    chain = ns.LinearGaussianChain(
        jnp.zeros(len(matrix)), eye, matrix, 0.1 * eye, num_steps=len(loc)
    )
    said = ns.GaussianPotential.from_loc_scale(loc, 1.0 + 0.1 * jnp.cos(loc))
    posterior, log_normalizer = chain.condition(said)
    return log_normalizer + jnp.sum(jnp.sin(posterior.sample(random.key(0))))


def follow(mesh):
    """Value and gradient for a long chain, and what is sent on the way."""
    loc = place(mesh, random.normal(random.key(2), (512, 2)), "devices")
    matrix = place(mesh, jnp.array([[0.9, 0.3], [-0.3, 0.9]]))
    gradient = jax.jit(jax.value_and_grad(long_chain, (0, 1)))
    step = gradient.lower(matrix, loc).compile()
    return {
        "gradient": numbers(step(matrix, loc)),
        "loops": messages(step.as_text())[1],
    }


def main():
    # Plain gradients: Adam would blow up the rounding error of a gradient near zero.
    optimizer = ns.svae_optimizer(optax.sgd(1e-4), 0.5)
    svi = SVI(model, ns.AutoSVAE(model, recognition), optimizer, ns.SVAE_ELBO())
    y = random.normal(random.key(1), (SEQUENCES, STEPS, 3))
    state = svi.init(random.key(0), y)
    found = {"sequences": {}, "steps": {}}
    for count in COUNTS:
        mesh = Mesh(np.array(jax.devices()[:count]), ("devices",))
        found["sequences"][count] = learn(svi, state, y, mesh)
        found["steps"][count] = follow(mesh)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
