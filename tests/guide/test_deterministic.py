# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Deterministic sites are drawn with the latent ones, as NumPyro's autoguides do."""

import pickle

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns

Y = jnp.linspace(-1.0, 2.0, 6)


def model(y, key, size=None):
    tau = numpyro.sample("tau", dist.Gamma(4.0, 4.0))
    numpyro.deterministic("twice", 2 * tau)
    numpyro.deterministic("of_data", tau + y.sum())
    with numpyro.plate("data", len(y), subsample_size=size) as index:
        x = numpyro.sample("x", dist.Normal(jnp.zeros(1), tau**-0.5).to_event(1))
        numpyro.deterministic("square", x**2)
        numpyro.deterministic("noisy", x[:, 0] + random.normal(key))
        numpyro.deterministic("seen", y[index])
        numpyro.sample("y", dist.Normal(x, 0.05).to_event(1), obs=y[index, None])


@pytest.fixture(scope="module")
def fitted():
    guide = ns.AutoSVAE(model)
    svi = SVI(model, guide, ns.svae_optimizer(natural=1.0), ns.SVAE_ELBO())
    result = svi.run(random.key(0), 2, Y, random.key(1), progress_bar=False)
    return guide, result.params


def test_draws_of_global_sites_have_their_functions(fitted):
    guide, params = fitted
    guide = pickle.loads(pickle.dumps(guide))
    draws = guide.sample_posterior(random.key(2), params, sample_shape=(3,))
    assert draws.keys() == {"tau", "twice"}
    np.testing.assert_allclose(draws["twice"], 2 * draws["tau"])
    median = guide.median(params)
    np.testing.assert_allclose(median["twice"], 2 * median["tau"], rtol=1e-5)


def test_draws_given_data_have_all_of_them(fitted):
    guide, params = fitted
    args = params, Y, random.key(1)
    draws = guide.sample_posterior(random.key(2), *args, size=4, sample_shape=(3,))
    assert draws["square"].shape == (3, 6, 1)  # of what the plate subsamples, all
    np.testing.assert_allclose(draws["square"], draws["x"] ** 2)
    np.testing.assert_allclose(draws["of_data"], draws["tau"] + Y.sum(), rtol=1e-5)
    far = np.abs(draws["x"][..., 0] - draws["seen"])  # of the data that the guide saw
    assert far.max() < 0.3


def test_a_model_that_looks_at_its_data_needs_them():
    def looks(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
        numpyro.deterministic("shifted", mu + float(np.asarray(y).sum()))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    guide = ns.AutoSVAE(looks)
    svi = SVI(looks, guide, ns.svae_optimizer(natural=1.0), ns.SVAE_ELBO())
    params = svi.get_params(svi.init(random.key(0), Y))
    assert guide.sample_posterior(random.key(0), params).keys() == {"mu"}
    assert "shifted" in guide.sample_posterior(random.key(0), params, Y)
