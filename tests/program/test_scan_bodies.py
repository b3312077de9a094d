# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a scan may be of: a single step, and a plate that was opened before it."""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
import pytest

import numpyro_svae as ns
from tests.data import make_svi

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


def test_what_is_carried_of_data_needs_no_latent_site():
    """A state picks an autoregression; the value before is carried, or scanned over."""

    def model(y, carried):
        def step(carry, now):
            (z, *_), (value, other, k) = carry, now
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            loc = weight[z] * (carry if carried else (0, other, k))[1]
            loc = loc + 0.1 * (carry[2] if carried else k)
            numpyro.sample("y", dist.Normal(loc, 1.0), obs=value)
            return (z, value, carry[2] + 1), None

        with numpyro.plate("states", 2):
            rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(2)))
            weight = numpyro.sample("weight", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z0", dist.Categorical(jnp.ones(2) / 2))
        scan(step, (z, y[0], 0), (y[1:], y[:-1], jnp.arange(3)))

    losses = []
    for carried in (True, False):
        guide = ns.AutoSVAE(model, num_starts=1)
        svi = make_svi(model, guide)
        state = svi.init(random.PRNGKey(0), jnp.asarray(Y), carried)
        losses.append(svi.evaluate(state, jnp.asarray(Y), carried))
    np.testing.assert_allclose(*losses, rtol=1e-5)


Y = np.random.default_rng(1).normal(1.0, 1.0, 4).astype(np.float32)
ROWS = jnp.array([[0.7, 0.3], [0.2, 0.8]])


def driven(y, inputs, drift, outside=False, curve=lambda x: 0.9 * x):
    """A path that inputs, a parameter and a label or the states of a chain drive."""
    slope = numpyro.param("slope", jnp.zeros(()))
    first = numpyro.sample("z0", dist.Categorical(jnp.array([0.5, 0.5])))

    def step(carry, given):
        (z, x), (u, y) = carry, given
        z = first if outside else numpyro.sample("z", dist.Categorical(ROWS[z]))
        loc = jnp.where(z == 1, curve(x), 0.9 * x) + slope * u + drift[z]
        x = numpyro.sample("x", dist.MultivariateNormal(loc, jnp.eye(1)))
        numpyro.sample("y", dist.Normal(x[0], 0.5), obs=y)
        return (z, x), None

    x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)))
    scan(step, (first, x), (inputs, y))


def loss_of(guide, slope, drift, outside):
    params, given = {"slope": jnp.array(slope)}, (Y, jnp.ones(4), drift, outside)
    return ns.SVAE_ELBO().loss(random.PRNGKey(0), params, driven, guide, *given)


@pytest.mark.parametrize("outside", [False, True])
def test_what_drives_a_path_need_not_do_so_where_it_is_read(outside):
    """Inputs and a parameter that are zero at first, and the drift of one state alone.

    The oracle is a guide that has read the program where all drives the path.
    """
    guides = []
    for start in (0.0, 1.0):
        guides.append(ns.AutoSVAE(driven))
        given = jnp.full(4, start), jnp.array([start, 2.0 * start])
        make_svi(driven, guides[-1]).init(random.PRNGKey(0), Y, *given, outside)
    for slope, drift in ((0.7, jnp.zeros(2)), (0.0, jnp.array([0.0, 2.0]))):
        found, expected = (loss_of(g, slope, drift, outside) for g in guides)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert abs(found - loss_of(guides[0], 0.0, jnp.zeros(2), outside)) > 0.01


def test_one_state_alone_may_have_a_drift():
    def loss(least):
        model = partial(driven, Y, jnp.zeros(4), jnp.array([least, 2.0]))
        return ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, model, ns.AutoSVAE(model))

    np.testing.assert_allclose(loss(0.0), loss(1e-6), rtol=1e-5)


def test_steps_that_are_linear_in_one_state_alone_are_not_linear():
    def model():
        driven(Y, jnp.ones(4), jnp.zeros(2), curve=lambda x: jnp.tanh(2.0 * x))

    with pytest.raises(ValueError, match=r"'x' \(NonlinearGaussianChain\).*latent 'z'"):
        make_svi(model, ns.AutoSVAE(model)).init(random.PRNGKey(0))
