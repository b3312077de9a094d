# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What one does with models whose states hear of the vector before."""

from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from tests.recurrent import Y, by_position, recurrent


def fit(model, *args, **kwargs):
    guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(max_sweeps=200))
    svi = SVI(model, guide, optax.sgd(0.1), ns.SVAE_ELBO())
    state = svi.init(random.PRNGKey(0), *args, **kwargs)
    return guide, svi.get_params(state)


def sides(count=6, steps=8):
    """Positions that step towards zero and across it."""
    rng = np.random.default_rng(0)
    x = np.zeros((count, steps, 1))
    x[:, 0, 0] = np.linspace(-2.2, 2.2, count)
    for t in range(1, steps):
        noise = 0.1 * rng.standard_normal((count, 1))
        x[:, t] = x[:, t - 1] - np.sign(x[:, t - 1]) + noise
    return jnp.asarray(x + 0.1 * rng.standard_normal(x.shape)), x


@pytest.fixture(scope="module")
def positions():
    y, x = sides()
    return *fit(by_position, y), y, x


@pytest.mark.filterwarnings("ignore:AutoSVAE. coordinate ascent")  # of one sweep
def test_sweeps_come_to_rest_at_boundaries_that_are_sharp():
    """A datum whose bound falls has shorter steps, whatever the others do."""
    y, x = sides()
    rng = np.random.default_rng(1)
    y = jnp.asarray(x + 0.3 * rng.standard_normal(x.shape))
    given = {"sharp": 100.0, "noise": 0.1}
    guide, params = fit(by_position, y, **given)
    ended = guide.convergence(params, y, **given)["z"]
    assert float(ended.residual) <= 1.0
    assert int(ended.sweeps) < 280  # as many as there may be
    few = ns.AutoSVAE(by_position, fixed_point=ns.FixedPoint(max_sweeps=1))
    key, loss = random.PRNGKey(0), ns.SVAE_ELBO().loss
    more, less = (loss(key, params, by_position, g, y, **given) for g in (guide, few))
    assert more < less


def test_states_that_are_not_carried_are_found(positions):
    guide, params, y, x = positions
    local = guide.posterior_local(params, y)
    found = np.argmax(local["z"].base_dist.probs, -1)[:, 1:]
    np.testing.assert_array_equal(found, x[:, :-1, 0] < 0)
    draws = guide.sample_posterior(random.PRNGKey(1), params, y, sample_shape=(3,))
    assert draws["z"].shape == (3, *draws["z"].shape[1:])
    assert np.isfinite(draws["x"]).all()


def test_forecasts_draw_states_from_the_vectors_that_they_drew(positions):
    guide, params, y, _ = positions
    paths = ns.forecast(
        by_position, guide, params, random.PRNGKey(2), y, horizon=5, num_samples=20
    )
    x, z = np.asarray(paths["x"]), np.asarray(paths["z"])
    assert x.shape[:3] == (20, 5, 6)
    far = np.abs(x[:, :-1, :, 0]) > 0.3  # where logits leave no doubt
    np.testing.assert_array_equal(z[:, 1:][far], (x[:, :-1, :, 0] < 0)[far])
    assert np.abs(x).max() < 2.5  # it stays where the drift holds it


def test_what_is_not_seen_is_bridged():
    y = jnp.asarray(Y)
    seen = jnp.ones(y.shape[:2], bool).at[:, 3].set(False)
    guide, params = fit(recurrent, y, mask=seen)
    whole = guide.posterior_local(params, y, mask=seen)
    other = y.at[:, 3].set(50.0)
    moved = guide.posterior_local(params, other, mask=seen)
    np.testing.assert_allclose(whole["x"].mean, moved["x"].mean, rtol=1e-5)


def test_filtered_states_are_near_the_smoothed_ones(positions):
    guide, params, y, _ = positions
    state = ns.filter(by_position, guide, params, y[:, :-1])
    found = state.update(y=y[:, -1]).marginals["x"].mean
    smoothed = guide.posterior_local(params, y)["x"].mean[:, -1]
    np.testing.assert_allclose(found, smoothed, atol=0.02)


def test_a_filter_takes_carried_states_too():
    y = jnp.asarray(Y)
    guide, params = fit(recurrent, y)
    state = ns.filter(recurrent, guide, params, y[:, :3]).update(y=y[:, 3])
    assert np.isfinite(state.marginals["x"].mean).all()
    np.testing.assert_allclose(state.marginals["z"].probs.sum(-1), 1.0, rtol=1e-5)
