# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a scan may be of: a single step, a plate that was opened before it, and states
side by side that go on by themselves."""

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


def coupled(case, y):
    """Three members of a batch, whose steps look at each other, but for one."""
    mix = jnp.array([[0.5, 0.3, 0.0], [0.0, 0.5, 0.3], [0.2, 0.0, 0.5]])
    vectors = case in ("vectors", "one vector")
    site = (lambda fn: fn.to_event(1)) if vectors else (lambda fn: fn)
    shape = (3, 1) if case == "vectors" else (3,)

    def step(x, y):
        loc = x + jnp.mean(jnp.sin(x)) if case == "bent" else mix @ x
        x = numpyro.sample("x", site(dist.Normal(loc, 0.5)))
        seen = dist.Normal(x.reshape(3), 0.3)
        numpyro.sample("y", site(seen) if case == "one vector" else seen, obs=y)
        return x, None

    first = site(dist.Normal(jnp.zeros(shape), 1.0))
    scan(step, numpyro.sample("x_0", first), y)


def neighbours(case, y):
    """States that depend on those of their neighbours; or events of states."""
    rows, events = jnp.array([[0.9, 0.1], [0.2, 0.8]]), case == "events"
    site = (lambda fn: fn.to_event(1)) if events else (lambda fn: fn)

    def step(z, y):
        probs = rows[z] if events else 0.5 * rows[z] + 0.5 * rows[jnp.roll(z, 1)]
        z = numpyro.sample("z", site(dist.Categorical(probs)))
        numpyro.sample("y", site(dist.Normal(2.0 * z, 0.3)), obs=y)
        return z, None

    first = site(dist.Categorical(jnp.full((3, 2), 0.5)))
    scan(step, numpyro.sample("z_0", first), y)


def moved_by_noise(case, y):
    """Noise of each step that moves a path, or is summed up to one; or a slope."""

    def step(carry, y):
        x, slope = carry
        noise = numpyro.sample("noise", dist.Normal(slope, 0.3))
        if case == "sum":
            x = x + 0.5 * noise
        else:
            x = numpyro.sample("x", dist.Normal(0.9 * x + noise, 0.3))
        numpyro.sample("y", dist.Normal(x, 0.3), obs=y)
        return (x, noise if case == "slope" else slope), None

    x = 0.0 if case == "sum" else numpyro.sample("x_0", dist.Normal(0.0, 1.0))
    scan(step, (x, 0.0), y[:, 0])


def scaled(case, y):
    """A vector at each step that a learnt number scales: a product of parameters."""
    weight = numpyro.sample("weight", dist.Normal(0.0, 1.0))

    def step(carry, y):
        x = numpyro.sample("x", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(weight * x[0], 0.3), obs=y)
        return carry, None

    scan(step, None, y[:, 0])


@pytest.mark.parametrize(
    "model, case, message",
    [
        (coupled, "numbers", r"'x': .*\(3,\), whose steps .* other members.*A @ x"),
        (coupled, "vectors", r"'x': .*\(3,\), whose steps .* other members"),
        (coupled, "bent", r"'x': .*\(3,\), whose steps .* other members"),
        (neighbours, "states", r"'z': .*\(3,\), whose .* one Categorical"),
        (neighbours, "events", r"'z': found events of shape \(3,\).*to_event\(0\)"),
        (
            moved_by_noise,
            "noise",
            r"'noise': latent at each step .*Normal\(a \* x, s\)",
        ),
        (scaled, "weight", r"'x': latent at each step .* rows the body takes from xs"),
        (moved_by_noise, "sum", r"'noise': .* carries .*'x', dist.Normal\(x, s\)"),
        (moved_by_noise, "slope", r"'x' .*: its steps .*'noise'.*'x_noise'.*A @ x"),
    ],
)
def test_members_that_look_at_each_other_are_named(model, case, message):
    """They would be read as if all members had the state of each. So is what moves a
    path and is no part of it."""
    y = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(ValueError, match=message):
        ns.AutoSVAE(model).posterior_local({}, case, y)


def test_one_vector_of_all_members_has_the_evidence_of_its_gaussian(x64):
    """As the error says."""
    y = np.random.default_rng(0).normal(size=(4, 3))
    mix = np.array([[0.5, 0.3, 0.0], [0.0, 0.5, 0.3], [0.2, 0.0, 0.5]])
    steps = [np.linalg.matrix_power(mix, k) for k in range(5)]
    noises = [np.eye(3)] + 4 * [0.25 * np.eye(3)]
    cov = 0.09 * np.eye(12)
    for i in range(1, 5):
        for j in range(1, 5):
            block = sum(
                steps[i - k] @ noises[k] @ steps[j - k].T for k in range(min(i, j) + 1)
            )
            cov[3 * i - 3 : 3 * i, 3 * j - 3 : 3 * j] += block
    expected = dist.MultivariateNormal(jnp.zeros(12), cov).log_prob(y.reshape(-1))
    given = {}, coupled, ns.AutoSVAE(coupled), "one vector", y
    found = ns.SVAE_ELBO().loss(random.PRNGKey(0), *given)
    np.testing.assert_allclose(found, -expected, rtol=1e-9)
