# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Errors around chains that are coupled with other sites."""

import jax.numpy as jnp
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.coupled import labels, turning
from tests.models import vector_prior

Y = jnp.zeros((2, 3, 2))


def error_of(model):
    """The message of the error that reading a program ends in."""
    with pytest.raises(ValueError) as raised:
        handlers.seed(ns.AutoSVAE(model), 0)(Y)
    return str(raised.value)


def test_components_of_two_batches_that_two_paths_of_states_pick():
    def model(y):
        loc, cov = vector_prior("components", 2, 2)
        other, _ = vector_prior("others", 2, 2)
        with numpyro.plate("sequences", len(y)):
            a, b = labels("a", y.shape[1]), labels("b", y.shape[1])
            fn = dist.MultivariateNormal(loc[a] + other[b], cov[a])
            numpyro.sample("y", fn.to_event(1), obs=y)

    message = error_of(model)
    for part in ("Site 'y'", "'a', 'b'", "'components'", "from one batch"):
        assert part in message, message


def test_a_path_that_starts_at_a_function_of_a_latent_vector():
    def model(y):
        with numpyro.plate("sequences", len(y)):
            u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
            start = jnp.tanh(u), jnp.eye(2)
            chain = ns.LinearGaussianChain(*start, jnp.eye(2), jnp.eye(2), num_steps=3)
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(x, 1.0).to_event(2), obs=y)

    message = error_of(model)
    for part in ("Site 'x'", "(initial_loc, initial_cov)", "'u'", "fixed values"):
        assert part in message, message


def test_an_observation_of_a_path_and_of_all_steps_of_another():
    def model(y):
        with numpyro.plate("sequences", len(y)):
            x, w = turning("x", y.shape[1]), turning("w", y.shape[1])
            numpyro.sample(
                "y", dist.Normal(x * jnp.cumsum(w, -2), 1.0).to_event(2), obs=y
            )

    message = error_of(model)
    for part in ("Site 'w'", "'y'", "GaussianPotential", "several positions"):
        assert part in message, message
