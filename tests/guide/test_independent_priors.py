# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a guide offers of blocks with independent priors."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import Predictive
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.guide.test_to_arviz import group
from tests.independent import principal_components

MODEL = partial(principal_components, dim=2)
EVENTS = {"alpha": (2,), "w": (3, 2), "b": (3,), "tau": ()}


@pytest.fixture(scope="module")
def pca():
    rng = np.random.default_rng(0)
    line = rng.standard_normal((20, 1)) * [2.0, -1.0, 0.5]
    y = jnp.asarray(line + 0.2 * rng.standard_normal((20, 3)), jnp.float32)
    guide = ns.AutoSVAE(MODEL)
    params, losses = steps(make_svi(MODEL, guide, natural=0.5), 100, y)
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]
    return guide, params, y


def test_posteriors_have_the_shapes_and_supports_of_their_sites(pca):
    guide, params, _ = pca
    posterior = guide.get_posterior(params)
    assert {n: fn.event_shape for n, fn in posterior.items()} == EVENTS
    for name, fn in posterior.items():
        draw = fn.sample(random.PRNGKey(0), (3,))
        assert draw.shape == (3, *EVENTS[name])
        assert np.all(np.isfinite(fn.log_prob(draw)))


def test_medians_and_quantiles_are_by_site(pca):
    guide, params, _ = pca
    low, high = (guide.quantiles(params, [q]) for q in (0.1, 0.9))
    posterior, median = guide.get_posterior(params), guide.median(params)
    for name, shape in EVENTS.items():
        assert median[name].shape == shape
        assert np.all(low[name][0] < median[name])
        assert np.all(median[name] < high[name][0])
    deviation = np.sqrt(posterior["b"].variance)
    np.testing.assert_allclose(
        median["b"], posterior["b"].mean, atol=0.1 * deviation.max()
    )


def test_draws_and_predictions(pca):
    guide, params, y = pca
    draws = guide.sample_posterior(random.PRNGKey(0), params, y, sample_shape=(5,))
    assert draws["w"].shape == (5, 3, 2) and draws["x"].shape == (5, 20, 2)
    predictive = Predictive(MODEL, guide=guide, params=params, num_samples=4)
    assert predictive(random.PRNGKey(1), y)["y"].shape == (4, 20, 3)


def test_a_posterior_is_a_start(pca):
    """Given as distributions, it is where the guide starts."""
    guide, params, y = pca
    posterior = guide.get_posterior(params)
    again = ns.AutoSVAE(MODEL, init=posterior)
    svi = make_svi(MODEL, again)
    found = svi.get_params(svi.init(random.PRNGKey(0), y))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        found,
        params,
    )


@pytest.mark.slow
def test_arviz_data_have_every_site(pca):
    guide, params, y = pca
    idata = ns.to_arviz(MODEL, guide, params, y, num_samples=10, num_particles=1)
    posterior = group(idata, "posterior")
    for name, shape in EVENTS.items():
        assert posterior[name].shape == (1, 10, *shape)
    assert group(idata, "log_likelihood")["y"].shape[:3] == (1, 10, 20)


def test_no_step_leaves_the_domain(pca):
    """Wild gradients are shortened to positive definite precisions."""
    _, params, _ = pca
    natural = params["w_auto_natural"]
    optimizer = ns.svae_optimizer(natural=1.0)
    state = optimizer.init({"w": natural})
    wild = natural.scale(5.0)
    move, state = optimizer.update({"w": wild}, state, {"w": natural})
    precision = (natural + move["w"]).precision
    assert np.all(np.linalg.eigvalsh(precision) > 0)
    assert np.all(np.isfinite((natural + move["w"]).log_normalizer()))
