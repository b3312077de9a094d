# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""GLM-HMMs: transitions and observations by regression on inputs, by brute force."""

from itertools import product

import jax
from jax import random
from jax.nn import log_sigmoid, log_softmax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax

import numpyro_svae as ns

STATES, STEPS = 2, 4
rng = np.random.default_rng(0)
START = {
    "transition": 2.0 * rng.standard_normal((STATES, STATES, 2)),
    "choice": rng.standard_normal((STATES, 2)),
}
INPUTS = np.stack([rng.standard_normal((3, STEPS)), np.ones((3, STEPS))], -1)
Y = rng.integers(0, 2, (3, STEPS))


def glm_hmm(y, inputs):
    """Choices by regression on inputs; inputs move the transitions too."""
    transition = numpyro.param("transition", jnp.asarray(START["transition"]))
    choice = numpyro.param("choice", jnp.asarray(START["choice"]))

    def step(z, given):
        y, u = given
        with numpyro.plate("sessions", len(y)):
            logits = jnp.squeeze(transition[z] @ u[..., None], -1)
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            odds = jnp.sum(choice[z] * u, -1)
            numpyro.sample("y", dist.Bernoulli(logits=odds), obs=y)
        return z, None

    with numpyro.plate("sessions", len(y)):
        z = numpyro.sample("before", dist.Categorical(jnp.ones(STATES) / STATES))
    scan(step, z, (y.T, inputs.swapaxes(0, 1)))


def log_evidence(params):
    total = 0.0
    for y, u in zip(Y, INPUTS):
        rows = log_softmax(jnp.einsum("jki,ti->tjk", params["transition"], u), -1)
        odds = u @ params["choice"].T
        seen = jnp.where(y[:, None] == 1, log_sigmoid(odds), log_sigmoid(-odds))
        terms = []
        for before, *path in product(range(STATES), repeat=STEPS + 1):
            value = -jnp.log(STATES)
            for t, (state, last) in enumerate(zip(path, (before, *path))):
                value = value + rows[t, last, state] + seen[t, state]
            terms.append(value)
        total = total + jax.nn.logsumexp(jnp.stack(terms))
    return total


def test_a_glm_hmm_is_exact_and_so_is_its_gradient(x64):
    guide = ns.AutoSVAE(glm_hmm)
    svi = SVI(glm_hmm, guide, optax.sgd(1.0), ns.SVAE_ELBO())
    data = jnp.asarray(Y), jnp.asarray(INPUTS)
    state = svi.init(random.PRNGKey(0), *data)
    params = {name: jnp.asarray(value) for name, value in START.items()}
    value, gradient = jax.jit(jax.value_and_grad(log_evidence))(params)
    state, loss = svi.update(state, *data)
    np.testing.assert_allclose(-loss, value, rtol=1e-10)
    found = svi.get_params(state)
    for name in params:
        moved = found[name] - params[name]
        np.testing.assert_allclose(moved, gradient[name], atol=1e-10)


def test_logits_that_leave_no_doubt_are_no_zeros():
    """In single precision their probabilities are; the bound is finite."""

    def sure(y, inputs):
        z = numpyro.sample("z0", dist.Categorical(jnp.ones(2) / 2))

        def step(z, given):
            y, u = given
            logits = jnp.stack([u, -u])
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            numpyro.sample("y", dist.Normal(jnp.array([0.0, 1.0])[z], 1e-2), obs=y)
            return z, None

        scan(step, z, (y, inputs))

    y, inputs = jnp.array([0.0, 1.0, 1.0]), jnp.array([90.0, 90.0, -90.0])
    guide = ns.AutoSVAE(sure)
    svi = SVI(sure, guide, optax.sgd(1.0), ns.SVAE_ELBO())
    loss = svi.evaluate(svi.init(random.PRNGKey(0), y, inputs), y, inputs)
    expected = 180.0 + 3 * (np.log(1e-2) + 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
