# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observed chains whose rows a label picks, against a sum over the labels."""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence

import numpyro_svae as ns
from tests.data import make_svi, steps

PATHS = np.random.default_rng(0).integers(0, 3, (5, 6))


def model(paths):
    """Two kinds of sequences, each with a matrix of its own."""
    with numpyro.plate_stack("rows of kinds", (2, 3)):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("sequences", len(paths)):
        kind = numpyro.sample("kind", dist.Categorical(jnp.array([0.3, 0.7])))
        first = jnp.full(3, 1 / 3)
        chain = ns.DiscreteMarkovChain(first, rows[kind][:, None], paths.shape[1])
        numpyro.sample("path", chain, obs=paths)


def test_kinds_of_sequences(x64):
    counts = jnp.asarray(np.random.default_rng(1).uniform(1.0, 4.0, (2, 3, 3)))
    guide = ns.AutoSVAE(model, init={"rows": dist.Dirichlet(counts)})
    params, losses = steps(make_svi(model, guide), 1, PATHS)

    def total(logs):
        terms = jnp.sum(logs[:, PATHS[:, :-1], PATHS[:, 1:]], -1)  # (kind, sequence)
        terms = terms + jnp.log(jnp.array([0.3, 0.7]))[:, None] - jnp.log(3.0)
        return jnp.sum(jax.nn.logsumexp(terms, 0))

    logs = digamma(counts) - digamma(jnp.sum(counts, -1, keepdims=True))
    value, seen = jax.value_and_grad(total)(logs)
    prior = dist.Dirichlet(jnp.ones((2, 3, 3)))
    kl = jnp.sum(kl_divergence(dist.Dirichlet(counts), prior))
    np.testing.assert_allclose(losses[0], kl - value, rtol=1e-10)
    found = guide.get_posterior(params)["rows"].concentration
    np.testing.assert_allclose(found, 1 + seen, rtol=1e-9)
