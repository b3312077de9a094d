# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where states start that hang on the path whose steps they pick."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.inference.start.regimes import experts
from numpyro_svae.inference.start.smoothed import local_quadratics
from tests.recurrent import pushed, pushed_with_prior


def test_quadratics_stay_as_they_are():
    time = np.linspace(-1.0, 1.0, 30)[:, None]
    path = jnp.asarray(np.concatenate([time**2, 1.0 - time], -1), jnp.float32)
    found = local_quadratics(path, jnp.ones(30))
    np.testing.assert_allclose(found, path, atol=1e-4)


def test_smoothing_brings_noisy_paths_nearer():
    time = np.linspace(0.0, 6.0, 200)
    path = np.stack([np.sin(time), np.cos(time)], -1)
    noisy = path + 0.3 * np.random.default_rng(0).standard_normal(path.shape)
    found = local_quadratics(jnp.asarray(noisy, jnp.float32), jnp.ones(200))
    assert np.mean((found - path) ** 2) < 0.25 * np.mean((noisy - path) ** 2)


def test_what_is_not_seen_does_not_count():
    path = jnp.asarray(np.random.default_rng(0).standard_normal((40, 1)), jnp.float32)
    seen = jnp.ones(40).at[20].set(0.0)
    found = local_quadratics(path, seen)
    other = local_quadratics(path.at[20].set(100.0), seen)
    np.testing.assert_allclose(found, other, rtol=1e-5)


def test_experts_hold_in_regions():
    """Steps that are alike in the middle, and differ in how they change with place."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (300, 1))
    change = np.where(x < 0, 1.0 + x, 1.0 - x) + 0.02 * rng.standard_normal(x.shape)
    parts = (jnp.asarray(part, jnp.float32) for part in (x, change))
    nothing, unknown = jnp.zeros((300, 0)), jnp.zeros((300, 2))
    member = experts(random.PRNGKey(0), *parts, nothing, unknown, jnp.ones(300))
    first = np.argmax(member, -1) == 0
    agree = np.mean(first == (x[:, 0] < 0))
    assert max(agree, 1 - agree) > 0.97


@pytest.fixture(scope="module")
def begun():
    """A program whose state hears which side of zero the vector is on."""
    rng, x = np.random.default_rng(0), np.zeros((6, 40, 1))
    x[:, 0, 0] = np.linspace(-1.0, 1.0, 6)
    for t in range(1, 40):
        x[:, t] = x[:, t - 1] + 0.1 * np.sign(x[:, t - 1])
        x[:, t] += 0.01 * rng.standard_normal((6, 1))
    y = jnp.asarray(x + 0.02 * rng.standard_normal(x.shape), jnp.float32)
    return y


def svi_of(model):
    optimizer = ns.svae_optimizer(optax.adam(1e-2), 0.5)
    return SVI(model, ns.AutoSVAE(model), optimizer, ns.SVAE_ELBO())


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of a scan
@pytest.mark.parametrize("model", [pushed, pushed_with_prior])
def test_logits_start_where_the_steps_are_those_of_their_states(model, begun):
    svi = svi_of(model)
    params = svi.get_params(svi.init(random.PRNGKey(0), begun))
    found = svi.guide.get_posterior(params)
    drift = found["dynamics"].mean[..., 0, 1]
    weights = params["weights"] if model is pushed else found["weights"].mean
    left, right = (np.argmax(weights @ np.array([side, 1.0])) for side in (-1.0, 1.0))
    assert left != right
    np.testing.assert_allclose(drift[left], -drift[right], rtol=0.3)


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of a scan
def test_values_that_are_given_stay(begun):
    svi, y = svi_of(pushed), begun
    given = {"weights": jnp.ones((2, 2))}
    params = svi.get_params(svi.init(random.PRNGKey(0), y, init_params=given))
    np.testing.assert_array_equal(params["weights"], given["weights"])


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of a scan
def test_steps_without_inputs_start_too():
    """One sequence of three steps, whose dynamics have no drift."""

    def decaying(y):
        own = ns.MatrixNormalInverseWishart(
            jnp.eye(1), jnp.eye(1), 3.0, 0.1 * jnp.eye(1)
        )
        with numpyro.plate("states", 2):
            weight, noise = ns.sample("dynamics", own)

        def step(x, y):
            logits = jnp.concatenate([x, -x], -1)
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            mean = weight[z][..., 0] * x
            x = numpyro.sample("x", dist.MultivariateNormal(mean, noise[z]))
            numpyro.sample("y", dist.MultivariateNormal(x, 0.1 * jnp.eye(1)), obs=y)
            return x, None

        first = dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1))
        scan(step, numpyro.sample("first", first), y)

    guide = ns.AutoSVAE(decaying, num_starts=1)
    svi = SVI(decaying, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    y = jnp.array([[1.0], [0.5], [0.3]])
    found = guide.get_posterior(svi.get_params(svi.init(random.PRNGKey(0), y)))
    assert jnp.all(jnp.isfinite(found["dynamics"].mean))
