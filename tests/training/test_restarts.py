# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Several runs at once, of which the best is kept."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.training import run_restarts
from tests.compilations import compilations
from tests.data import clusters, make_svi
from tests.models import mixture


@pytest.fixture(scope="module")
def restarts():
    """Too many components for the data, so that starts end in different places."""
    with jax.enable_x64(False):
        y = clusters(60, seed=4)[0].astype(jnp.float32)
        guide = ns.AutoSVAE(mixture, num_starts=1)
        svi = make_svi(mixture, guide, natural=0.5)
        return svi, y, run_restarts(svi, random.PRNGKey(0), 5, 20, y, count=6)


@pytest.mark.slow
def test_the_best_is_kept(restarts):
    svi, _, found = restarts
    final = found.losses[:, -2:].mean(-1)
    assert found.losses.shape == (5, 20)
    assert found.best == np.argmin(final)
    assert np.ptp(final) > 0.5
    np.testing.assert_array_equal(found.result.losses, found.losses[found.best])
    params = svi.get_params(found.result.state)
    jax.tree.map(np.testing.assert_array_equal, found.result.params, params)


@pytest.mark.slow
def test_a_restart_is_the_run_from_its_key(restarts):
    svi, y, found = restarts
    key = random.split(random.PRNGKey(0), 5)[found.best]
    alone = svi.run(key, 20, y, count=6, progress_bar=False)
    np.testing.assert_allclose(alone.losses, found.result.losses, rtol=1e-4)


def lottery(scale=1.0):
    """Some starts are NaN, others are better or worse for good."""

    def start(key):
        draw = random.uniform(key)
        return jnp.where(draw < 0.5, jnp.nan, 10 * draw)

    def model():
        numpyro.factor("loss", -numpyro.param("start", start) / scale)

    return SVI(model, lambda: None, optax.sgd(0.0), ns.SVAE_ELBO())


def test_what_ends_in_nan_is_never_the_best():
    with pytest.warns(RuntimeWarning, match="nan at 'loss'"):
        found = run_restarts(lottery(), random.PRNGKey(0), 12, 3)
    finite = np.isfinite(found.losses[:, -1])
    assert 0 < finite.sum() < 12
    assert found.result.losses[-1] == found.losses[finite, -1].min()
    with (
        pytest.warns(RuntimeWarning, match="at 'loss'"),
        pytest.raises(FloatingPointError, match="all 4 restarts ended NaN"),
    ):
        run_restarts(lottery(scale=0.0), random.PRNGKey(0), 4, 3)


def test_other_restarts_of_a_program_compile_nothing():
    y = clusters(30, seed=4)[0].astype(jnp.float32)
    other = y[::-1] + 1.0

    def inference(model):
        return make_svi(model, ns.AutoSVAE(model, num_starts=1))

    def losses(svi, y):
        return run_restarts(svi, random.PRNGKey(0), 2, 4, y, count=6).losses

    svi = inference(mixture)
    losses(svi, y)
    with compilations() as count:
        found = losses(svi, other)
    assert count() == 0
    expected = losses(inference(_looks_at_values), other)  # whose data are constants
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def _looks_at_values(y, count):
    assert np.all(np.isfinite(np.asarray(y)))
    mixture(y, count=count)
