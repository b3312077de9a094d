# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures and Markov chains of one state are what they are without a label."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

PRIOR = ns.NormalInverseWishart(np.zeros(2), 0.4, 5.0, np.eye(2))


def components():
    with numpyro.plate("components", 1):
        return ns.sample("component", PRIOR)


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(1, 2.5)))
    mu, cov = components()
    rows = numpyro.plate("sequences", len(y), dim=-2)
    with rows, numpyro.plate("time", y.shape[1], dim=-1):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.MultivariateNormal(mu[z], cov[z]), obs=y)


def chain(y):
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.full(1, 2.5)))
    with numpyro.plate("states", 1):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.full(1, 0.5)))
    mu, cov = components()
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, y.shape[1]))
        fn = dist.MultivariateNormal(mu[z], cov[z]).to_event(1)
        numpyro.sample("y", fn, obs=y)


def observed(y):
    """The states are data, and so is what picks the component."""
    z = jnp.zeros(y.shape[:2], int)
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.full(1, 2.5)))
    mu, cov = components()
    with numpyro.plate("sequences", len(y)):
        states = ns.DiscreteMarkovChain(initial, jnp.ones((1, 1)), y.shape[1])
        numpyro.sample("z", states, obs=z)
        fn = dist.MultivariateNormal(mu[z], cov[z]).to_event(1)
        numpyro.sample("y", fn, obs=y)


@pytest.mark.parametrize("model", [mixture, chain, observed])
def test_one_state_has_the_evidence_of_a_single_gaussian(x64, model):
    y = jnp.asarray(np.random.default_rng(1).normal(1.0, 2.0, (3, 4, 2)))
    svi = make_svi(model, ns.AutoSVAE(model), natural=1.0)
    state, _ = svi.update(svi.init(random.PRNGKey(0), y), y)
    flat = y.reshape(-1, 2)
    ones = jnp.ones((len(flat), 1))
    seen = ns.families.RegressionNatural.observe(flat, ones, jnp.ones(len(flat)))
    before = PRIOR.natural_parameters
    after = before + jax.tree.map(lambda leaf: jnp.sum(leaf, 0), seen)
    evidence = after.log_normalizer() - before.log_normalizer()
    evidence = evidence - len(flat) * jnp.log(2 * jnp.pi)
    np.testing.assert_allclose(svi.evaluate(state, y), -evidence, rtol=1e-8)
