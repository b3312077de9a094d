# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a scan may be of: a single step, and a plate that was opened before it."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
import pytest

import numpyro_svae as ns

# NumPyro's replay takes the shape of everything in the trace of a guide.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")


def walk(y, again):
    """A walk, and noisy views of all but its first state.

    :param again: whether the body opens the plate that the first state is in.
    """
    plate = numpyro.plate("sequences", 2)
    with plate:
        first = dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1))
        x = numpyro.sample("x_0", first)

    def step(x, y):
        with plate if again else numpyro.plate("sequences", 2):
            fn = dist.MultivariateNormal(0.5 * x, 2.0 * jnp.eye(1))
            x = numpyro.sample("x", fn)
            numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)
        return x, None

    scan(step, x, y)


@pytest.mark.parametrize("again", [False, True])
def test_one_step_has_the_moments_of_a_sum(again):
    guide, y = ns.AutoSVAE(walk), jnp.array([[[3.0], [-1.0]]])
    with trace(), seed(rng_seed=0):
        guide(y, again)
    found = guide.posterior_local({}, y, again)["x"]
    prior = 0.25 + 2.0
    last = y[0] * prior / (prior + 1)
    expected = jnp.stack([y[0] * 0.5 / (prior + 1), last], 1)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-5)


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_a_counter_that_is_carried_drives_a_path(first):
    """Also from nought, where the first step moves nothing. Oracle: dense algebra."""
    y = np.random.default_rng(0).normal(3.0, 1.0, 4).astype(np.float32)

    def model(y, count):
        def step(carry, y):
            x, count = carry
            loc = 0.9 * x + 2.0 * count
            x = numpyro.sample("x", dist.MultivariateNormal(loc, jnp.eye(1)))
            numpyro.sample("y", dist.Normal(x[0], 0.5), obs=y)
            return (x, count + 1.0), None

        start = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)))
        scan(step, (start, count), y)

    mean, covariance = [0.0], np.eye(5)
    for t in range(1, 5):
        mean.append(0.9 * mean[-1] + 2.0 * (first + t - 1))
        covariance[t, :t] = covariance[:t, t] = 0.9 * covariance[t - 1, :t]
        covariance[t, t] = 0.81 * covariance[t - 1, t - 1] + 1.0
    noisy = covariance[1:, 1:] + 0.25 * np.eye(4)
    expected = -dist.MultivariateNormal(np.array(mean[1:]), noisy).log_prob(y)
    guide = ns.AutoSVAE(model)
    found = ns.SVAE_ELBO().loss(
        random.PRNGKey(0), {}, model, guide, jnp.asarray(y), first
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
