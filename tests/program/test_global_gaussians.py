# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which Gaussian sites are global blocks, and which are inferred with the states."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.program.run.agreement import same
from tests.independent import (
    means_of_groups,
    mixture,
    principal_components,
)
from tests.program.test_errors import assert_says, error_of

Y = jnp.asarray([[0.0, 1.0], [0.5, -1.0], [2.0, 0.3], [1.0, 0.1]])


def shared_mean(y, noise="known", size=None):
    """One mean of all data."""
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
    scale = 0.5
    if noise == "learnt":
        scale = numpyro.sample("tau", dist.Gamma(2.0, 1.0)) ** -0.5
    with numpyro.plate("data", len(y), subsample_size=size) as index:
        y = y if size is None else y[index]
        numpyro.sample("y", dist.Normal(mu, scale).to_event(1), obs=y)


def members(y):
    """A mean, groups around it with a precision to learn, and their members."""
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    with numpyro.plate("groups", 2, dim=-2):
        x = numpyro.sample("x", dist.Normal(mu, tau**-0.5).to_event(1))
        with numpyro.plate("data", 2, dim=-1):
            fn = dist.Normal(x, 0.5).to_event(1)
            numpyro.sample("y", fn, obs=y.reshape(2, 2, 2))


def lone_sequence(y):
    """Vectors that a chain of states picks means for, without a plate."""
    rows = jnp.array([[0.8, 0.2], [0.3, 0.7]])
    with numpyro.plate("states", 2):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    z = numpyro.sample("z", ns.DiscreteMarkovChain(rows[0], rows, len(y)))
    x = numpyro.sample("x", dist.Normal(mu[z], tau**-0.5).to_event(2))
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(2), obs=y)


CASES = {
    "a lone sequence": (lone_sequence, {}, ["mu", "tau"], ["z", "x"]),
    "known noise: exact": (shared_mean, {}, [], ["mu"]),
    "learnt noise": (partial(shared_mean, noise="learnt"), {}, ["mu", "tau"], []),
    "subsampled": (partial(shared_mean, size=2), {}, ["mu"], []),
    "mean of latent groups": (members, {}, ["tau"], ["mu", "x"]),
    "picked by labels": (mixture, {}, ["weights", "mu", "tau"], ["z"]),
    "picked by data": (means_of_groups, {"group": jnp.arange(4) % 2}, ["mu"], []),
    "weights of states": (
        partial(principal_components, dim=1),
        {},
        ["alpha", "w", "b", "tau"],
        ["x"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_global_blocks_and_local_sites(name):
    model, arguments, globals, locals = CASES[name]
    guide = ns.AutoSVAE(model, num_starts=1)
    with handlers.seed(rng_seed=0):
        draws = guide(Y, **arguments)
    assert list(guide.structure.priors) == globals
    assert list(guide.structure.locals) == locals
    assert set(draws) == {*globals, *locals}
    lines = str(guide.structure).splitlines()
    shown = [line.split()[0] for line in lines if " global: " in line]
    assert shown == [f"'{block}'" for block in globals]
    assert any("conjugate factor of" in line for line in lines)


def test_a_population_behind_a_network():
    def model(y):
        top = numpyro.sample("top", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        with numpyro.plate("components", 2):
            mu = numpyro.sample("mu", dist.Normal(jnp.tanh(top), 1.0).to_event(1))
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
            numpyro.sample("y", dist.Normal(mu[z], 1.0).to_event(1), obs=y)

    parts = "'mu' (Normal)", "'top'", "Accepted", "affine", "Write"
    assert_says(error_of(model, Y), *parts)


def test_scale_that_is_another_function_of_a_precision():
    def model(y):
        alpha = numpyro.sample("alpha", dist.Gamma(2.0, 1.0))
        fn = dist.Normal(jnp.zeros(2), 1.0 + alpha).to_event(1)
        mu = numpyro.sample("mu", fn)
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)

    message = error_of(model, Y)
    assert_says(message, "'mu' (Normal)", "'alpha'", "1 / sqrt(alpha)", "Accepted")


def test_weight_that_does_not_fit_its_responses():
    def model(y):
        w = numpyro.sample("w", dist.Normal(jnp.zeros((3, 2, 1)), 1.0).to_event(3))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", len(y)):
            loc = jnp.ones((len(y), 3)) @ w[:, :, 0]
            numpyro.sample("y", dist.Normal(loc, tau**-0.5).to_event(1), obs=y)

    message = error_of(model, Y)
    assert_says(message, "'w' (Normal)", "(3, 2, 1)", "dimension [2]", "(D, M)")


@pytest.mark.parametrize("cov", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])
def test_prior_whose_covariance_is_not_positive_definite(cov):
    def model(y):
        mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(2), jnp.array(cov)))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(mu, tau**-0.5).to_event(1), obs=y)

    assert_says(error_of(model, Y), "'mu'", "not positive definite", "Accepted")


def test_mean_behind_a_network():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", len(y)):
            fn = dist.Normal(jnp.tanh(mu), tau**-0.5).to_event(1)
            numpyro.sample("y", fn, obs=y)

    message = error_of(model, Y)
    assert_says(message, "'y' (Normal)", "'mu'", "'tau'", "jnp.exp(log_tau)")


def test_noise_with_precisions_of_another_number():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0).expand([3]).to_event(1))
        with numpyro.plate("data", len(y)):
            fn = dist.Normal(mu, tau.sum() ** -0.5).to_event(1)
            numpyro.sample("y", fn, obs=y)

    message = error_of(model, Y)
    assert_says(message, "'y' (Normal)", "'tau'", "not conjugate", "Accepted")


def test_steps_that_are_added_up_in_the_plate_of_the_data_are_refused():
    def model(y):
        with numpyro.plate("time", len(y)):
            w = numpyro.sample("w", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(jnp.cumsum(w), 1.0), obs=y)

    assert_says(error_of(model, Y[:, 0]), "'y'", "'w'", "one site", "no plate")


def test_a_location_that_is_the_whole_number_zero_agrees_with_itself():
    """As that of ``Normal(0, alpha**-0.5)``, whose scale is learnt."""
    assert same(np.zeros(2, int), np.zeros(2, int))
    assert not same(np.ones(2, int), np.zeros(2, int))
