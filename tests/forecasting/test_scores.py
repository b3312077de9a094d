# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of Gaussian forecasts, whose values are known."""

from jax import random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import numpyro_svae as ns


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
