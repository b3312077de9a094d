# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Rows with zeros: left-to-right chains whose rows are learnt, parameters or known."""

from functools import partial
import itertools

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import logsumexp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.program.read.latents import easy_value, read_priors
from numpyro_svae.program.run.sites import Program, sample_sites
from tests.data import make_svi

K, T = 3, 6
KEY = random.PRNGKey(0)
Y = np.random.default_rng(0).standard_normal((4, T))
LEVELS = jnp.array([-1.0, 0.0, 2.0])
BAND = jnp.eye(K) + jnp.eye(K, k=1)


def observe(rows, y):
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(jnp.eye(K)[0], rows, T))
        numpyro.sample("y", dist.Normal(LEVELS[z], 1.0).to_event(1), obs=y)


def learnt(kind, y):
    with numpyro.plate("states", K):
        rows = numpyro.sample("rows", kind(BAND))
    observe(rows, y)


def test_numpyros_dirichlet_is_refused_with_what_to_write():
    model = partial(learnt, dist.Dirichlet)
    with pytest.raises(ValueError, match=r"Site 'rows': .*DirichletWithZeros"):
        make_svi(model, ns.AutoSVAE(model)).init(KEY, Y)


def test_the_posterior_of_learnt_rows_has_their_zeros():
    program = Program(partial(learnt, ns.DirichletWithZeros, Y), (), {}, KEY)
    sites = sample_sites(program.trace({}, easy_value))
    prior = read_priors(program, sites)["rows"]
    natural = prior.natural(sites)
    rows = prior.posterior(natural + natural)
    assert np.array_equal(rows.concentration, 2 * BAND)
    drawn = rows.sample(KEY)
    assert np.array_equal(drawn == 0, BAND == 0)
    assert np.all(np.isfinite(rows.log_prob(drawn)))


def moves(rate):
    """Zeros that are known, beside rates that may not be."""
    return jnp.diag(1 - jnp.append(rate, 0.0)) + jnp.diag(rate, 1)


def parameters(y):
    observe(moves(numpyro.param("rate", jnp.array([0.3, 0.4]))), y)


def evidence(rate):
    """The log of the sum over all paths that go from left to right."""
    paths = np.array(list(itertools.product(range(K), repeat=T)))
    steps = np.diff(paths)
    paths = paths[(paths[:, 0] == 0) & np.all((steps == 0) | (steps == 1), -1)]
    rows = moves(rate)[paths[:, :-1], paths[:, 1:]]
    seen = dist.Normal(LEVELS[paths], 1.0).log_prob(Y[:, None]).sum(-1)
    return jnp.sum(logsumexp(seen + jnp.sum(jnp.log(rows), -1), -1))


def test_gradients_beside_known_zeros(x64):
    guide = ns.AutoSVAE(parameters)
    svi = make_svi(parameters, guide)
    params = svi.get_params(svi.init(KEY, Y))

    def loss(rate):
        own = {**params, "rate": rate}
        return ns.SVAE_ELBO().loss(KEY, own, parameters, guide, Y)

    found = jax.jit(jax.value_and_grad(loss))(params["rate"])
    expected = jax.value_and_grad(evidence)(params["rate"])
    for pair in zip(found, expected):
        np.testing.assert_allclose(pair[0], -pair[1], rtol=1e-9)
