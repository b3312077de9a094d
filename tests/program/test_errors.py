# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Every error names the site, says what was found and what would do."""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.infer import SVI
import numpyro.optim
import optax
import pytest

import numpyro_svae as ns
from tests.data import clusters, sequences
from tests.models import (
    lds_recognition,
    lds_svae,
    mixture,
    mixture_recognition,
    mixture_svae,
    observed_lds,
    vector_prior,
)


def error_of(model, *args, recognition=None, error=ValueError, **kwargs):
    """The message of the error that reading a program ends in."""
    guide = ns.AutoSVAE(model, recognition)
    with pytest.raises(error) as raised, handlers.seed(rng_seed=0):
        guide(*args, **kwargs)
    return str(raised.value)


def assert_says(message, *parts):
    for part in parts:
        assert part in message, message


# latent sites


def test_latent_site_that_is_of_no_known_family():
    def model(y):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    message = error_of(model, jnp.ones(()))
    assert_says(message, "'rate'", "LogNormal", "Accepted", "Dirichlet", "block")


def test_latent_state_without_a_potential_that_is_a_mixture():
    y, _ = sequences()
    message = error_of(mixture_svae, y[:, 0], recognition=lambda y: {})
    assert_says(message, "'x'", "'y'", "'z'", "mean_field=True", "GaussianPotential")


def test_mean_that_a_covariance_scales_in_another_way():
    def model(y):
        cov = numpyro.sample("cov", dist.InverseWishart(4.0, scale_matrix=jnp.eye(2)))
        fn = dist.MultivariateNormal(jnp.zeros(2), cov + jnp.eye(2))
        mu = numpyro.sample("mu", fn)
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(mu, cov), obs=y)

    message = error_of(model, clusters()[0])
    assert_says(message, "'mu'", "'cov'", "Accepted", "Gamma site alpha")


def test_data_of_another_size_than_their_plate():
    """When the model is read, and when held-out data come."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        with numpyro.plate("data", 4):
            numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)

    parts = "'y'", "(3, 2)", "'data' of 4", "(4, 2)", "len(y)"
    assert_says(error_of(model, jnp.zeros((3, 2))), *parts)
    guide = ns.AutoSVAE(model)
    with handlers.seed(rng_seed=0):
        guide(jnp.zeros((4, 2)))
        with pytest.raises(ValueError) as raised:
            guide(jnp.zeros((3, 2)))
    assert_says(str(raised.value), *parts)


# potentials


def potential(*batch, dim=2):
    return ns.GaussianPotential(jnp.zeros((*batch, dim)), jnp.ones((*batch, dim)))


@pytest.mark.parametrize(
    ("returned", "parts"),
    [
        ({"x": potential(4), "w": potential(4)}, ("'w'", "unknown", "['x', 'z']")),
        (
            {"x": potential(4), "y": potential(4, dim=3)},
            ("'y'", "observed", "['x', 'z']"),
        ),
        (
            {"x": potential(4), "z": potential(4)},
            ("'z'", "GaussianPotential", "CategoricalPotential"),
        ),
        ({"x": potential(3)}, ("'x'", "(3,)", "(4,)")),
        ({"x": potential(4, 1)}, ("'x'", "(4, 1)", "(4,)")),
        ({"x": potential(4, dim=3)}, ("'x'", "dimension 3", "dimension 2")),
        ({"x": (jnp.zeros((4, 2)), jnp.ones((4, 2)))}, ("'x'", "tuple", "Gaussian")),
    ],
    ids=["unknown", "observed", "discrete", "length", "axes", "dimension", "type"],
)
def test_potentials_that_do_not_fit(returned, parts):
    y = sequences()[0][:, 0]
    message = error_of(mixture_svae, y, recognition=lambda y: returned)
    assert_says(message, *parts, "Accepted")


def test_potential_of_a_chain_needs_every_step():
    y, actions = sequences()
    recognition = lambda *args: {"x": potential(4, 6)}  # noqa: E731
    message = error_of(lds_svae, y, actions, recognition=recognition)
    assert_says(message, "'x'", "(4, 6)", "(4, 5)", "then time")


def test_recognition_that_returns_no_dictionary():
    y = sequences()[0][:, 0]
    recognition = lambda y: potential(4)  # noqa: E731
    message = error_of(mixture_svae, y, recognition=recognition, error=TypeError)
    assert_says(message, "recognition", "GaussianPotential", "dictionary")


# dependence on global sites


def test_hyperparameter_that_depends_on_a_latent_site():
    def model(y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        prior = ns.NormalInverseWishart(weights, 1.0, 4.0, jnp.eye(2))
        loc, cov = ns.sample("components", prior)
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(loc, cov), obs=y)

    message = error_of(model, clusters()[0])
    assert_says(message, "'components'", "'weights'", "not conjugate", "fixed values")


def mixture_with(change):
    """The mixture with its (weights, loc, cov) changed on the way to the data."""

    def model(y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
        weights, loc, cov = change(weights, *vector_prior("components", 2, 3))
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=y)

    return model


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda w, m, s: (w**2 / jnp.sum(w**2), m, s),
            ("'z'", "'weights'", "value of one Dirichlet"),
        ),
        (lambda w, m, s: ((w + w[::-1]) / 2, m, s), ("'z'", "'weights'", "Dirichlet")),
        (lambda w, m, s: (w, jnp.tanh(m), s), ("'y'", "'components'", "K + F S")),
        (lambda w, m, s: (w, m**2, s), ("'y'", "'components'", "K + F S")),
        (lambda w, m, s: (w, m, s**2), ("'y'", "'components'", "s Sigma")),
        (lambda w, m, s: (w, m + w[:, None], s), ("'y'", "'weights'", "conjugate")),
        (lambda w, m, s: (w, m, s[:, ::-1, ::-1]), ("'y'", "'components'", "Sigma")),
    ],
    ids=["squared", "averaged", "network", "power", "noise", "mixed", "flipped"],
)
def test_dependence_that_is_not_conjugate(change, parts):
    message = error_of(mixture_with(change), clusters()[0])
    assert_says(message, *parts, "not conjugate", "Accepted", "neural network")


@pytest.mark.parametrize(
    "change",
    [lambda F: jnp.tanh(F), lambda F: F.T, lambda F: F @ F],
    ids=["network", "transposed", "squared"],
)
def test_chain_whose_dynamics_are_not_the_value_of_a_block(change):
    def model(x):
        start = vector_prior("init", 2)
        prior = ns.MatrixNormalInverseWishart(jnp.eye(2), jnp.eye(2), 4.0, jnp.eye(2))
        F, Q = ns.sample("dynamics", prior)
        with numpyro.plate("sequences", len(x)):
            chain = ns.LinearGaussianChain(*start, change(F), Q, num_steps=5)
            numpyro.sample("x", chain, obs=x)

    message = error_of(model, sequences(outputs=2)[0])
    assert_says(message, "'x'", "(transition_matrix, transition_cov)", "'dynamics'")
    assert_says(message, "not conjugate", "weight F and the covariance", "fixed values")


def test_network_between_a_global_site_and_the_data():
    def model(y):
        loc, _ = vector_prior("centre", 2)
        with numpyro.plate("data", len(y)):
            fn = dist.Normal(jnp.tanh(loc), 1.0).to_event(1)
            numpyro.sample("y", fn, obs=y)

    message = error_of(model, clusters()[0])
    assert_says(message, "'y'", "'centre'", "not conjugate", "neural network")


# plates


@pytest.mark.filterwarnings("ignore:subsample_size does not match:UserWarning")
@pytest.mark.parametrize(
    ("plate", "parts"),
    [
        (("data", 5), ("'data'", "(5, 5)", "(4, 4)", "as in the model")),
        (("data", 4, 2), ("'data'", "(4, 2)", "(4, 4)", "as in the model")),
        (("rows", 4), ("'rows'", "model does not", "'data'")),
    ],
    ids=["size", "subsample_size", "unknown"],
)
def test_plates_that_disagree(plate, parts):
    def recognition(y):
        name, size, *rest = plate
        with numpyro.plate(name, size, subsample_size=rest[0] if rest else None):
            return {"x": potential(4)}

    y = sequences()[0][:, 0]
    message = error_of(mixture_svae, y, recognition=recognition)
    assert_says(message, *parts, "Accepted")


def test_recognition_that_samples():
    def recognition(y):
        loc = numpyro.sample("draw", dist.Normal(y[:, :2], 1.0).to_event(2))
        return {"x": ns.GaussianPotential.from_loc_scale(loc, 1.0)}

    message = error_of(mixture_svae, np.zeros((4, 3)), recognition=recognition)
    assert_says(message, "recognition function samples 'draw'", "prng_key")


def test_minibatch_that_the_recognition_function_does_not_know_of():
    y = sequences()[0][:, 0]
    model = partial(mixture_svae, subsample=2)
    message = error_of(model, y, recognition=mixture_recognition)
    assert_says(message, "'data'", "(4, 4)", "(4, 2)", "as in the model")


# hyperparameters


def one_gaussian(prior):
    def model(y):
        loc, cov = ns.sample("gaussian", prior())
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(loc, cov), obs=y)

    return model


INDEFINITE = jnp.array([[1.0, 2.0], [2.0, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((jnp.zeros(2), 1.0, 1.0, jnp.eye(2)), ("degrees of freedom", "more than 1")),
        ((jnp.zeros(2), 1.0, -3.0, jnp.eye(2)), ("degrees of freedom", "more than 1")),
        ((jnp.zeros(2), 1.0, 4.0, INDEFINITE), ("scale", "positive definite")),
        ((jnp.zeros(2), -1.0, 4.0, jnp.eye(2)), ("concentration", "positive definite")),
    ],
    ids=["df", "negative df", "scale", "concentration"],
)
def test_gaussian_prior_outside_of_its_domain(arguments, parts):
    model = one_gaussian(lambda: ns.NormalInverseWishart(*arguments))
    assert_says(error_of(model, clusters()[0]), "'gaussian'", *parts)


def test_two_site_prior_outside_of_its_domain():
    def model(y):
        cov = numpyro.sample("cov", dist.InverseWishart(0.5, scale_matrix=jnp.eye(2)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(2), cov))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(loc, cov), obs=y)

    assert_says(error_of(model, clusters()[0]), "'cov'", "0.5", "more than 1")


@pytest.mark.parametrize("lowest", [-1.0, np.nan])
def test_dirichlet_prior_outside_of_its_domain(lowest):
    def model(z):
        prior = dist.Dirichlet(jnp.array([1.0, lowest]))
        weights = numpyro.sample("weights", prior)
        with numpyro.plate("data", len(z)):
            numpyro.sample("z", dist.Categorical(weights), obs=z)

    message = error_of(model, jnp.array([0, 1, 1]))
    assert_says(message, "'weights'", "concentration", str(lowest), "positive")


# data


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_are_not_finite(bad):
    y = clusters()[0].at[3, 1].set(bad)
    message = error_of(mixture, y)
    assert_says(message, "'y'", "1 observed value", "NaN or infinite", "mask")


def test_observed_states_that_are_not_finite():
    x, actions = sequences(outputs=2)
    message = error_of(observed_lds, x.at[0, 2:4].set(np.nan), actions)
    assert_says(message, "'x'", "4 observed values", "NaN or infinite")


def test_potential_that_is_not_finite():
    y, actions = sequences()

    def recognition(y, actions):
        return {"x": ns.GaussianPotential(y[..., :2] / 0.0, jnp.ones(y[..., :2].shape))}

    message = error_of(lds_svae, y, actions, recognition=recognition)
    assert_says(message, "'x'", "potential", "NaN or infinite", "mask")


def test_masked_data_may_hold_anything():
    y, actions = sequences()
    mask = jnp.ones(y.shape[:2], bool).at[1, 2].set(False)
    guide = ns.AutoSVAE(lds_svae, lds_recognition)
    with handlers.seed(rng_seed=0):
        values = guide(y.at[1, 2].set(jnp.nan), actions, mask=mask)
    assert all(np.all(np.isfinite(value)) for value in values.values())


# optimisers


@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(1e-2), numpyro.optim.Adam(1e-2), optax.adagrad(1e-2)],
    ids=["optax.adam", "numpyro.optim.Adam", "optax.adagrad"],
)
def test_optimiser_that_would_rescale_natural_gradients(optimizer):
    svi = SVI(mixture, ns.AutoSVAE(mixture, num_starts=1), optimizer, ns.SVAE_ELBO())
    with pytest.raises(TypeError) as raised:
        svi.init(random.PRNGKey(0), clusters()[0])
    assert_says(str(raised.value), "'weights'", "Adam", "svae_optimizer")


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1), numpyro.optim.SGD(0.1), ns.svae_optimizer(optax.adam(1e-2))],
    ids=["optax.sgd", "numpyro.optim.SGD", "svae_optimizer"],
)
def test_optimiser_that_steps_along_natural_gradients(optimizer):
    svi = SVI(mixture, ns.AutoSVAE(mixture, num_starts=1), optimizer, ns.SVAE_ELBO())
    state = svi.init(random.PRNGKey(0), clusters()[0])
    assert "weights_auto_natural" in svi.get_params(state)


def test_what_was_learnt_before_anything_was():
    with pytest.raises(RuntimeError) as raised:
        ns.AutoSVAE(mixture).get_posterior({})
    assert_says(str(raised.value), "not read its model", "SVI.init")
