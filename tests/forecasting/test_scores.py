# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of Gaussian forecasts, whose values are known."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import norm, poisson

import numpyro_svae as ns
from numpyro_svae.program.run.kinds import kind_of


def test_crps_of_a_gaussian():
    draws = 1.0 + 2.0 * random.normal(random.PRNGKey(0), (4000, 3))
    observed = jnp.array([1.0, 0.0, 4.0])
    z = (np.asarray(observed) - 1) / 2
    goal = 2 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(ns.crps(draws, observed), goal, atol=0.1)


def test_crps_is_that_of_the_definition():
    draws, observed = random.normal(random.PRNGKey(1), (5, 2)), jnp.array([0.3, -1.0])
    pairs = jnp.abs(draws[:, None] - draws[None]).sum((0, 1)) / (5 * 4)
    goal = jnp.abs(draws - observed).mean(0) - 0.5 * pairs
    np.testing.assert_allclose(ns.crps(draws, observed), goal, rtol=1e-5)


def test_coverage_of_quantiles():
    draws = jnp.linspace(0.0, 1.0, 101)[:, None] * jnp.ones(4)
    observed = jnp.array([0.04, 0.06, 0.94, 0.96])
    found = ns.coverage(draws, observed, 0.9)
    np.testing.assert_array_equal(found, [False, True, True, False])
    with pytest.raises(ValueError, match=r"found shape .* for observations"):
        ns.coverage(draws, observed[:2], 0.9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ns.coverage(draws, observed, 90)


def test_bits_per_spike_are_the_gain_in_log_likelihood():
    """Over the mean of each neuron; what is NaN counts for nothing."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.2, 2.0, (4, 10, 3))
    counts = rng.poisson(rates).astype(float)
    constant = counts.mean((0, 1))
    gain = poisson(rates).logpmf(counts) - poisson(constant).logpmf(counts)
    goal = gain.sum() / np.log(2) / counts.sum()
    np.testing.assert_allclose(ns.bits_per_spike(rates, counts), goal, rtol=1e-3)
    counts[1, 4:] = np.nan
    goal = np.delete(gain.reshape(40, 3), np.arange(14, 20), 0).sum()
    goal /= np.log(2) * np.nansum(counts)
    found = ns.bits_per_spike(rates, counts, constant)
    np.testing.assert_allclose(found, goal, rtol=1e-3)


def test_bits_per_spike_need_spikes_of_the_shape_of_the_rates():
    rates = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"rates: found shape \(2, 3\) for counts"):
        ns.bits_per_spike(rates, jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="counts: found no spike"):
        ns.bits_per_spike(rates, jnp.zeros((2, 3)))


def chains():
    """A chain of each kind, and the density of its first state."""
    actions = random.normal(random.PRNGKey(2), (3, 4, 1))
    first = jnp.ones(2), 2.0 * jnp.eye(2)
    matrix, noise = jnp.array([[0.9, -0.2, 0.5], [0.3, 0.8, 0.0]]), 0.3 * jnp.eye(2)
    start = dist.MultivariateNormal(*first)
    yield ns.LinearGaussianChain(*first, matrix, noise, inputs=actions), start

    def bend(x, u):
        return jnp.tanh(matrix @ jnp.concatenate([x, u]))

    yield ns.NonlinearGaussianChain(*first, bend, noise, inputs=actions), start
    initial = jnp.array([0.3, 0.7])
    rows = jnp.array([[0.8, 0.2], [0.4, 0.6]])
    yield ns.DiscreteMarkovChain(initial, rows, 5), dist.Categorical(initial)


@pytest.mark.parametrize("kind", range(3), ids=["linear", "nonlinear", "discrete"])
def test_densities_of_steps_add_up_to_that_of_the_path(x64, kind):
    chain, first = list(chains())[kind]
    shape = (3,)[len(chain.batch_shape) :]
    path = chain.sample(random.PRNGKey(3), shape)
    steps = kind_of(chain).log_steps(chain, path[:, :-1], path[:, 1:])
    assert steps.shape == (3, 4)
    goal = chain.log_prob(path) - first.log_prob(path[:, 0])
    np.testing.assert_allclose(steps.sum(-1), goal, rtol=1e-9)
