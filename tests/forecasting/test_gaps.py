# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Smoothed states and imputed observations, against dense Gaussians."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import sequences
from tests.forecasting.test_forecast import DRAWS, assert_moments, dense_lds
from tests.models import chain_of
from tests.switching import known_hmm

SEEN = np.array([True, False, False, True, True, False])


def gappy_lds(y, actions, seen):
    """The model ``known_lds`` of the tests, where data are missing."""
    weight = jnp.array([[0.9, -0.2, 0.5], [0.3, 0.8, -0.4]])
    loading = jnp.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.2]])
    start = jnp.array([0.5, -0.5]), 1.5 * jnp.eye(2)
    step = weight, jnp.array([[0.3, 0.1], [0.1, 0.2]])
    with numpyro.plate("sequences", len(y)) as index:
        x = numpyro.sample("x", chain_of(start, step, actions, index, y.shape[1]))
        gaussian = dist.Normal(x @ loading.T + 0.1, jnp.sqrt(0.4)).to_event(1)
        counts = seen & jnp.isfinite(y).all(-1)  # is computed by the model
        numpyro.sample("y", gaussian.mask(counts).to_event(1), obs=y)


@pytest.fixture
def gappy(x64):
    """A guide, the data with nonsense in the gaps, and the truth about sequence 1."""
    y, actions = sequences(count=2, steps=6)
    seen = jnp.asarray(np.stack([np.ones(6, bool), SEEN]))
    junk = jnp.where(seen[..., None], y, 1e3)
    truth = dense_lds(actions[1]).given(y[1], SEEN)
    return ns.AutoSVAE(gappy_lds), (junk, actions, seen), truth


def test_gaps_are_filled_and_data_kept(gappy):
    guide, data, truth = gappy
    key = random.PRNGKey(0)
    filled = ns.impute(gappy_lds, guide, {}, key, *data, num_samples=DRAWS)["y"]
    assert filled.shape == (DRAWS, 2, 6, 3)
    np.testing.assert_array_equal(filled[7, 0], data[0][0])
    np.testing.assert_array_equal(filled[7, 1][SEEN], data[0][1][SEEN])
    missing = np.flatnonzero(~SEEN)
    assert_moments(filled[:, 1, missing], *truth.observations(missing))


def test_smoothed_states_have_names(gappy):
    guide, data, truth = gappy
    found = ns.smooth(gappy_lds, guide, {}, *data)
    assert found["x_mean"].dims == ("sequences", "time", "state")
    assert found["x_covariance"].dims == ("sequences", "time", "state", "state_bis")
    for t in range(6):
        mean, covariance = truth.states([t])
        np.testing.assert_allclose(found["x_mean"][1, t], mean, atol=1e-10)
        np.testing.assert_allclose(found["x_covariance"][1, t], covariance, atol=1e-10)


def test_regimes_and_mixtures_are_smoothed_too(x64):
    y, _ = sequences(count=2, steps=4, outputs=2)
    guide, lengths = ns.AutoSVAE(known_hmm), jnp.array([4, 2])
    seen = jnp.arange(4) < lengths[:, None]
    found = ns.smooth(known_hmm, guide, {}, y, lengths=lengths, mask=seen)
    assert found["z_probs"].dims == ("sequences", "time", "category")
    assert bool(np.isnan(found["z_probs"][1, 2:]).all())
    np.testing.assert_allclose(found["z_probs"][1, :2].sum("category"), 1.0)
    draws = guide.sample_posterior(
        random.PRNGKey(0), {}, y, lengths=lengths, mask=seen, sample_shape=(DRAWS,)
    )
    mean, covariance = found["x_mean"][0, 1], found["x_covariance"][0, 1]
    assert_moments(draws["x"][:, 0, 1], np.asarray(mean), np.asarray(covariance))
