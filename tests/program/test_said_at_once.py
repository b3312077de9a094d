# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What NumPyro or JAX would say in words of their own, or much later."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

Y = np.linspace(-1.0, 1.0, 6)


def test_a_plate_of_two_sizes_is_named():
    def model(y):
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)
        with numpyro.plate("data", 2):
            numpyro.sample("x", dist.Normal(0.0, 1.0), obs=y[:2])

    with pytest.raises(ValueError, match="Plate 'data': found sizes 6 and 2"):
        ns.AutoSVAE(model).posterior_local({}, Y)


def test_a_numpy_array_that_a_latent_site_indexes_is_an_error_that_says_so():
    def model(y):
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
            numpyro.sample("y", dist.Normal(np.array([-1.0, 1.0])[z], 1.0), obs=y)

    with pytest.raises(
        TypeError, match=r"found NumPy where.*jnp.asarray\(array\)\[z\]"
    ):
        ns.AutoSVAE(model).posterior_local({}, Y)


def test_numpy_that_a_search_for_a_start_traces_is_named():
    def model(y):
        weight = numpyro.sample("weight", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(y)):
            above = np.where(y > 0, 1, 0)
            numpyro.sample("y", dist.Bernoulli(logits=weight * Y), obs=above)

    with pytest.raises(TypeError, match=r"found NumPy .* for an argument of the model"):
        make_svi(model, ns.AutoSVAE(model)).init(random.key(0), Y)


def test_held_out_data_of_another_size_are_an_error_that_names_the_plate():
    def model(y, size=6):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
        with numpyro.plate("data", size):
            numpyro.sample("y", dist.Exponential(rate), obs=y)

    guide = ns.AutoSVAE(model)
    params = {"rate_auto_natural": ns.families.GammaNatural(3.0, 3.0)}
    guide._setup_prototype(np.abs(Y))
    with pytest.raises(ValueError, match=r"shape \(5,\).*'data' of 6, draws \(6,\)"):
        ns.log_likelihood(model, guide, params, random.PRNGKey(0), np.abs(Y)[:5])


def logarithms(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=np.log(y**2))


def test_functions_of_numpy_of_data_are_computed():
    guide = ns.AutoSVAE(logarithms)
    params, _ = steps(make_svi(logarithms, guide), 1, Y)
    found = guide.get_posterior(params)
    np.testing.assert_allclose(found["mu"].mean, np.sum(np.log(Y**2)) / 7, rtol=1e-4)


def test_functions_of_numpy_of_what_jax_traces_name_the_cause_and_the_line():
    def path(y):
        def step(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1.0).to_event(1))
            numpyro.sample("y", dist.Normal(np.sin(x), 1.0).to_event(1), obs=y)
            return x, None

        x = numpyro.sample("first", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
        scan(step, x, y[:, None])

    with pytest.raises(TypeError, match=r"what JAX traces, .*once.py, line \d+\)"):
        make_svi(path, ns.AutoSVAE(path)).init(random.key(0), Y)
    with pytest.raises(TypeError, match=r"an argument of the model, .*np\.log\(y\)"):
        ns.AutoSVAE(logarithms)(jnp.asarray(Y))


def test_a_numpy_array_that_a_plate_subsamples_is_told_from_a_latent_site():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
        with numpyro.plate("data", len(y), subsample_size=2) as index:
            numpyro.sample("y", dist.Exponential(rate), obs=y[index])

    with pytest.raises(TypeError, match=r"members that a plate with subsample_size"):
        steps(make_svi(model, ns.AutoSVAE(model)), 1, np.abs(Y))


def test_arrays_of_its_own_that_jax_traces_are_named():
    def fit(scale):
        def model(y):
            mu = numpyro.sample("mu", dist.Normal(0.0, scale))
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

        svi = make_svi(model, ns.AutoSVAE(model))
        return svi.get_params(svi.init(random.key(0), 1.0))

    with pytest.raises(
        TypeError, match=r"\['mu'\]: found arrays that are no arguments"
    ):
        jax.jit(fit)(2.0)
