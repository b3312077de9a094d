# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Data of another shape than is drawn: as NumPyro's densities have them, or refused."""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

RNG = np.random.default_rng(0)
Y = RNG.standard_normal((6, 2)).astype(np.float32)
COUNTS = RNG.poisson(3.0, (3, 4))


def numbers(y):
    mu = numpyro.sample("site", dist.Normal(0.0, 5.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def vectors(y):
    prior = dist.MultivariateNormal(jnp.zeros(2), 25 * jnp.eye(2))
    mu = numpyro.sample("site", prior)
    tau = numpyro.sample("tau", dist.Gamma(1e4, 1e4))
    numpyro.sample("y", dist.Normal(mu, tau**-0.5).to_event(1), obs=y)


def counts(y):
    rate = numpyro.sample("site", dist.Gamma(1.0, 1.0))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


RIGHT = {
    "a number of many": (numbers, Y[:, 0], np.sum(Y[:, 0]) / (6 + 1 / 25)),
    "of two axes": (numbers, Y, np.sum(Y) / (12 + 1 / 25)),
    "a vector of many": (vectors, Y, np.sum(Y, 0) / (6 + 1 / 25)),
    "a count of many": (counts, COUNTS, (1 + np.sum(COUNTS)) / 13),
}


@pytest.mark.parametrize("name", RIGHT)
def test_data_without_a_plate_count_each(name):
    model, y, expected = RIGHT[name]
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 3, y)
    found = guide.get_posterior(params)["site"].mean
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def plated(fn):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        with numpyro.plate("data", 6):
            numpyro.sample("y", fn(mu), obs=y)

    return model


REFUSED = {
    "a column": (
        plated(lambda mu: dist.Normal(mu[0], 1.0)),
        Y[:, :1],
        r"'y': .*\(6, 1\), which have no axis for plate 'data' of 6, axis -1",
    ),
    "an event of one": (
        plated(lambda mu: dist.Normal(mu[:1], 1.0).to_event(1)),
        Y,
        r"'y': .*\(6, 2\), whose last dimensions are not the event \(1,\)",
    ),
    "a mask of entries": (
        plated(lambda mu: dist.Normal(mu, 1.0).to_event(1).mask(np.ones((6, 1)) > 0)),
        Y,
        r"'y': found a mask .*\(6, 2\) count as data of shape \(6, 6, 2\)\. .*plates",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_count_several_times_is_refused(name):
    model, y, text = REFUSED[name]
    with pytest.raises(ValueError, match=text), trace(), seed(rng_seed=0):
        ns.AutoSVAE(model)(y)


def test_global_sites_keep_their_shape():
    def model(y, count):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(count)))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Categorical(weights), obs=y)

    guide, y = ns.AutoSVAE(model), np.array([0, 1, 1])
    with seed(rng_seed=0):
        guide(y, 2)
    with pytest.raises(ValueError, match=r"'weights': .*\(3,\), .*\(2,\).*same shape"):
        guide.posterior_local({}, y, 3)


def test_sites_keep_their_distributions():
    """A flag may not turn what was read into something else with parameters alike."""

    def model(y, tails=False, prior=dist.Gamma, more=True):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        s = numpyro.sample("s", prior(2.0, 2.0))
        fn = dist.StudentT(3.0, mu, s) if tails else dist.Normal(mu, 1 / jnp.sqrt(s))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", fn, obs=y)
            if more:
                numpyro.sample("z", dist.Normal(mu, 1.0), obs=y)

    guide, y = ns.AutoSVAE(model, num_starts=1), jnp.arange(3.0)
    with trace() as messages, seed(rng_seed=0):
        guide(y)
    params = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    loss = partial(ns.SVAE_ELBO().loss, random.key(0), params, model, guide, y)
    with pytest.raises(ValueError, match=r"'y': found StudentT, .* was gaussian"):
        loss(tails=True)
    with pytest.raises(ValueError, match=r"'s': found InverseGamma, .* it was Gamma"):
        loss(prior=dist.InverseGamma)
    with pytest.raises(ValueError, match="'z': found no such site"):
        loss(more=False)


def test_numbers_of_each_datum_are_those_of_the_first_data():
    """They are a global site: other data had an error of broadcasting in the model."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Normal(mu, 1.0))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    guide = ns.AutoSVAE(model, num_starts=1)
    with seed(rng_seed=0):
        guide(jnp.arange(6.0))
    with pytest.raises(ValueError, match=r"'z': .*\(2,\), .*\(6,\).*to_event\(1\)"):
        guide.posterior_local({}, jnp.arange(2.0))
