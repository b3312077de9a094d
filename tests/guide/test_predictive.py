# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Prediction with NumPyro's Predictive, and NumPyro's effect handlers."""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.infer import Predictive
import pytest

import numpyro_svae as ns
from tests.data import clusters
from tests.models import lds_svae, mixture, vector_prior


def test_prior_predictive(lds):
    _, actions = lds.args
    draw = Predictive(lds_svae, num_samples=6, params=lds.params)
    found = draw(random.PRNGKey(0), actions=actions)
    assert found["y"].shape == (6, 4, 5, 3)
    assert found["dynamics_weight"].shape == (6, 2, 3)


def test_posterior_predictive_without_data_comes_from_the_expected_prior(gmm):
    predict = Predictive(gmm.model, guide=gmm.guide, params=gmm.params, num_samples=400)
    found = predict(random.PRNGKey(0), size=30)
    assert found["y"].shape == (400, 30, 2)
    np.testing.assert_allclose(found["y"].mean((0, 1)), gmm.args[0].mean(0), atol=0.3)
    np.testing.assert_allclose(found["y"].std((0, 1)), gmm.args[0].std(0), rtol=0.25)


def test_posterior_predictive_of_sequences(lds):
    _, actions = lds.args
    predict = Predictive(
        lds_svae,
        guide=lds.guide,
        params=lds.params,
        num_samples=5,
        return_sites=["x", "y"],
    )
    found = predict(random.PRNGKey(0), actions=actions)
    assert found["y"].shape == (5, 4, 5, 3)
    assert found["x"].shape == (5, 4, 5, 2)
    assert np.all(np.isfinite(found["y"]))


def test_draws_of_the_guide(lds):
    found = Predictive(lds.guide, params=lds.params, num_samples=5)(
        random.PRNGKey(0), *lds.args
    )
    assert found["x"].shape == (5, 4, 5, 2)
    assert found["init"].shape == (5, 2, 3)


def test_reconstruction_from_draws_of_the_posterior(lds):
    draws = lds.guide.sample_posterior(
        random.PRNGKey(0), lds.params, *lds.args, sample_shape=(7,)
    )
    predict = Predictive(lds_svae, posterior_samples=draws, params=lds.params)
    found = predict(random.PRNGKey(1), None, lds.args[1])
    assert found["y"].shape == (7, 4, 5, 3)


def trace_of(guide, *args, seed=0, params=None):
    seeded = handlers.seed(guide, seed)
    with handlers.substitute(data=params or {}):
        return handlers.trace(seeded).get_trace(*args)


def test_a_seed_decides_the_draws(svae):
    runs = [trace_of(svae.guide, *svae.args, seed=s) for s in (1, 1, 2)]
    first, again, other = (run["x"]["value"] for run in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_trace_has_every_latent_site_in_its_plates(svae):
    messages = trace_of(svae.guide, *svae.args)
    samples = {n: m for n, m in messages.items() if m["type"] == "sample"}
    assert list(samples) == ["weights", "components", "z", "x"]
    plates = {n: [f.name for f in m["cond_indep_stack"]] for n, m in samples.items()}
    assert plates["components"] == ["components_plate"]
    assert plates["z"] == plates["x"] == ["data"]


def test_substituted_parameters_decide_the_posterior(gmm):
    weights = dist.Dirichlet(jnp.array([1000.0, 1.0, 1.0]))
    natural = type(gmm.params["weights_auto_natural"])(weights.concentration)
    params = {**gmm.params, "weights_auto_natural": natural}
    messages = trace_of(gmm.guide, *gmm.args, params=params)
    np.testing.assert_allclose(
        messages["weights"]["fn"].concentration, weights.concentration
    )


def test_a_blocked_site_is_not_seen(svae):
    hidden = handlers.block(handlers.seed(svae.guide, 0), hide=["x"])
    messages = handlers.trace(hidden).get_trace(*svae.args)
    assert "x" not in messages and "z" in messages


def elbo(model, guide, *args, params=None):
    return -ns.SVAE_ELBO().loss(random.PRNGKey(0), params or {}, model, guide, *args)


def test_scaling_model_and_guide_scales_the_elbo(gmm):
    scaled = handlers.scale(gmm.model, 0.5)
    plain = elbo(gmm.model, gmm.guide, *gmm.args, params=gmm.params)
    half = elbo(scaled, handlers.scale(gmm.guide, 0.5), *gmm.args, params=gmm.params)
    np.testing.assert_allclose(half, 0.5 * plain, rtol=1e-5)


def test_a_guide_of_a_model_that_is_scaled_as_a_whole_says_what_to_scale(gmm):
    with pytest.raises(ValueError, match=r"'weights': found a scale of 0\.5.*to SVI"):
        elbo(gmm.model, ns.AutoSVAE(handlers.scale(gmm.model, 0.5)), *gmm.args)


def test_masked_data_are_as_good_as_absent(gmm):
    y, _ = clusters()
    keep = jnp.arange(30) % 3 != 0

    def model(y, keep):
        weights, components = mixture_globals()
        with numpyro.plate("data", len(y)), handlers.mask(mask=keep):
            z = numpyro.sample("z", dist.Categorical(weights))
            loc, cov = components
            numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=y)

    everything = jnp.ones(20, bool)
    bad = jnp.where(keep[:, None], y, jnp.nan)
    masked = elbo(model, ns.AutoSVAE(model, num_starts=1), bad, keep, params=gmm.params)
    guide = ns.AutoSVAE(model, num_starts=1)
    absent = elbo(model, guide, y[keep], everything, params=gmm.params)
    np.testing.assert_allclose(masked, absent, rtol=1e-5)


def mixture_globals():
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(3, 0.7)))
    return weights, vector_prior("components", 2, 3)


def test_subsampled_guide_sees_the_same_minibatch_as_the_model():
    y, _ = clusters()
    model = partial(mixture, subsample=5)
    guide = handlers.seed(ns.AutoSVAE(model, num_starts=1), 0)
    messages = handlers.trace(guide).get_trace(y)
    assert messages["data"]["value"].shape == (5,)
    assert messages["z"]["value"].shape == (5,)
    assert messages["z"]["scale"] == 6.0
