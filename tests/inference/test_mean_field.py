# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The mean-field optimum of a label and a Gaussian against brute force."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns
from tests.models import known_mixture

WEIGHTS = np.array([0.5, 0.3, 0.2])
LOC = np.array([[0.0, 0.0], [1.5, 0.5], [-1.0, 2.0]])
SPREAD = np.array([0.5, 1.0, 0.7])
NOISE = 0.5
Y = np.array([[0.6, 0.4]])


def local_elbo(free):
    """ELBO of q(z) q(x) for ``known_mixture``, with a full covariance of x."""
    logits, mean, entries = free[:3], free[3:5], free[5:]
    tril = jnp.array([[jnp.exp(entries[0]), 0.0], [entries[1], jnp.exp(entries[2])]])
    covariance = tril @ tril.T
    log_probs = jax.nn.log_softmax(logits)

    def expected_normal(loc, variance):
        second = jnp.sum((mean - loc) ** 2, -1) + jnp.trace(covariance)
        return -0.5 * second / variance - jnp.log(2 * jnp.pi * variance)

    prior = jnp.log(WEIGHTS) + expected_normal(LOC, SPREAD)
    entropy = 1.0 + jnp.log(2 * jnp.pi) + entries[0] + entries[2]
    expected = jnp.sum(jnp.exp(log_probs) * (prior - log_probs))
    return expected + expected_normal(Y[0], NOISE) + entropy


@pytest.fixture
def optimum(x64):
    """The best of several starts of a quasi-Newton method."""
    value = jax.jit(jax.value_and_grad(lambda free: -local_elbo(free)))
    starts = np.random.default_rng(0).standard_normal((8, 8))
    runs = [minimize(value, s, jac=True, tol=1e-13) for s in starts]
    return min(runs, key=lambda run: run.fun)


def test_the_fixed_point_is_the_best_of_all_factored_posteriors(optimum):
    guide = ns.AutoSVAE(known_mixture, mean_field=True)
    loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, known_mixture, guide, Y)
    np.testing.assert_allclose(loss, optimum.fun, rtol=1e-8)
    local = guide.posterior_local({}, Y)
    np.testing.assert_allclose(local["x"].mean[0], optimum.x[3:5], atol=1e-4)
    probs = jax.nn.softmax(optimum.x[:3])
    np.testing.assert_allclose(local["z"].probs[0], probs, atol=1e-4)


def learnt_mixture(y):
    """``known_mixture`` with locations to learn."""
    loc = numpyro.param("loc", jnp.asarray(LOC))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.asarray(WEIGHTS)))
        cov = jnp.asarray(SPREAD)[z][..., None, None] * jnp.eye(2)
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov))
        numpyro.sample("y", dist.MultivariateNormal(x, NOISE * jnp.eye(2)), obs=y)


def test_its_implicit_gradient_is_that_of_finite_differences(x64):
    """Of the responsibilities themselves, which the ELBO alone would not test."""
    guide = ns.AutoSVAE(learnt_mixture, mean_field=True)
    y = np.concatenate([Y, Y + 1.0])

    @jax.jit
    @jax.value_and_grad
    def share(loc):
        local = guide.posterior_local({"loc": loc}, y)
        return jnp.sum(local["z"].probs[:, 1] * jnp.array([1.0, 2.0]))

    loc = jnp.asarray(LOC)
    guide.posterior_local({"loc": loc}, y)
    gradient = share(loc)[1]
    assert np.abs(gradient).min() > 1e-4
    step = 1e-5
    for k in range(3):
        for d in range(2):
            shift = step * jnp.zeros_like(loc).at[k, d].set(1.0)
            slope = (share(loc + shift)[0] - share(loc - shift)[0]) / (2 * step)
            np.testing.assert_allclose(gradient[k, d], slope, rtol=1e-5)


def test_it_finds_the_component_that_the_data_point_to():
    """The average of all components, near the second one, is no good start."""
    loc = jnp.array([[-3.0, 0.0], [0.3, 0.0], [3.0, 0.0]])

    def model(y):
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.full(3, 1 / 3)))
            x = numpyro.sample("x", dist.MultivariateNormal(loc[z], 0.05 * jnp.eye(2)))
            numpyro.sample("y", dist.MultivariateNormal(x, jnp.eye(2)), obs=y)

    guide = ns.AutoSVAE(model, mean_field=True)
    local = guide.posterior_local({}, loc)
    np.testing.assert_array_equal(np.argmax(local["z"].probs, -1), [0, 1, 2])
