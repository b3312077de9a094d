# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The guide in NumPyro's SVI: runs, restarts, transformations, other losses."""

import pickle

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
import optax
import pytest

import numpyro_svae as ns
from tests.models import lds_recognition, lds_svae


def assert_trees_close(actual, desired, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, desired
    )


def test_losses_fall(gmm, svae, lds):
    for fitted in (gmm, svae, lds):
        assert fitted.losses[-5:].mean() < fitted.losses[:5].mean() - 1e-3


def test_a_run_goes_on_from_its_state(gmm):
    svi, args = gmm.svi, gmm.args
    first = svi.run(random.PRNGKey(1), 3, *args, progress_bar=False)
    rest = svi.run(
        random.PRNGKey(2), 4, *args, progress_bar=False, init_state=first.state
    )
    whole = svi.run(random.PRNGKey(1), 7, *args, progress_bar=False)
    assert_trees_close(rest.params, whole.params, rtol=1e-4)


def test_a_run_starts_at_given_parameters(gmm):
    result = gmm.svi.run(
        random.PRNGKey(5), 1, *gmm.args, progress_bar=False, init_params=gmm.params
    )
    fresh = gmm.svi.run(random.PRNGKey(5), 1, *gmm.args, progress_bar=False)
    assert result.losses[0] < fresh.losses[0]
    np.testing.assert_allclose(result.losses[0], gmm.losses[-1], rtol=1e-3)


def test_stable_update_takes_the_same_steps(gmm):
    result = gmm.svi.run(
        random.PRNGKey(0), 5, *gmm.args, progress_bar=False, stable_update=True
    )
    np.testing.assert_allclose(result.losses, gmm.losses[:5], rtol=1e-5)


def test_evaluate_reads_the_parameters_that_it_is_given(gmm):
    svi, (y,) = gmm.svi, gmm.args
    start = svi.init(random.PRNGKey(0), y)
    end, _ = jax.jit(svi.update)(start, y)
    before, after = svi.evaluate(start, y), svi.evaluate(end, y)
    assert after < before
    np.testing.assert_allclose(before, gmm.losses[0], rtol=1e-5)
    fewer = svi.evaluate(end, y[:10])
    assert fewer < after


def test_initialisation_and_updates_run_under_vmap(gmm):
    """Restarts from several seeds at once."""
    svi, y = gmm.svi, random.normal(random.PRNGKey(9), (20, 2))
    keys = random.split(random.PRNGKey(3), 3)
    states = jax.jit(jax.vmap(lambda key: svi.init(key, y)))(keys)
    states, losses = jax.jit(jax.vmap(lambda state: svi.update(state, y)))(states)
    assert losses.shape == (3,) and np.all(np.isfinite(losses))
    assert np.ptp(losses) > 0
    alone = svi.init(keys[1], y)
    np.testing.assert_allclose(svi.evaluate(alone, y), losses[1], rtol=1e-4)


def test_guide_and_parameters_can_be_pickled(lds):
    guide, params = pickle.loads(pickle.dumps((lds.guide, lds.params)))
    assert_trees_close(params, lds.params, rtol=0)
    found = guide.posterior_local(params, *lds.args)["x"].mean
    expected = lds.guide.posterior_local(lds.params, *lds.args)["x"].mean
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_stock_estimators_train_a_continuous_model(lds, loss):
    guide = ns.AutoSVAE(lds_svae, lds_recognition)
    optimizer = ns.svae_optimizer(optax.adam(1e-2), 0.1)
    svi = SVI(lds_svae, guide, optimizer, loss(num_particles=4))
    with pytest.warns(RuntimeWarning, match=f"{loss.__name__}.*loss=ns.SVAE_ELBO"):
        state = svi.init(random.PRNGKey(0), *lds.args)

    def update(state, _):
        return svi.update(state, *lds.args)

    _, losses = jax.jit(lambda s: jax.lax.scan(update, s, length=40))(state)
    assert np.all(np.isfinite(losses))
    assert jnp.mean(losses[-10:]) < jnp.mean(losses[:5]) - 5.0
