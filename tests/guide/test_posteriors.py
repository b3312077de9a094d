# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a fitted guide says of its sites."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
import numpyro.distributions as dist
import pytest
from scipy import stats

import numpyro_svae as ns
from tests.data import clusters, sequences
from tests.models import mixture, mixture_recognition, mixture_svae


def test_names_of_the_parameters_have_the_prefix():
    guide = ns.AutoSVAE(mixture, prefix="mine", num_starts=1)
    with handlers.trace() as messages, handlers.seed(rng_seed=0):
        guide(clusters()[0])
    params = {name for name, m in messages.items() if m["type"] == "param"}
    assert params == {"weights_mine_natural", "components_mine_natural"}


def test_posteriors_are_distributions_of_the_families_by_site(gmm, lds):
    found = gmm.guide.get_posterior(gmm.params)
    assert {k: type(v) for k, v in found.items()} == {
        "weights": dist.Dirichlet,
        "components": ns.NormalInverseWishart,
    }
    found = lds.guide.get_posterior(lds.params)
    assert {k: type(v) for k, v in found.items()} == {
        "init": ns.NormalInverseWishart,
        "dynamics": ns.MatrixNormalInverseWishart,
    }
    assert found["dynamics"].event_shape == (2, 3 + 2)


def test_two_site_posterior_goes_by_the_name_of_its_location():
    guide = ns.AutoSVAE(partial(mixture, joint=False), num_starts=1)
    y, _ = clusters()
    with handlers.trace() as messages, handlers.seed(rng_seed=0):
        guide(y)
    params = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    found = guide.get_posterior(params)["components"]
    assert isinstance(found, ns.NormalInverseWishart)
    draws = guide.sample_posterior(random.PRNGKey(0), params)
    assert draws["components"].shape == (3, 2)
    assert draws["components_cov"].shape == (3, 2, 2)


def test_quantiles_of_a_mean_are_those_of_its_t(gmm):
    levels = [0.1, 0.5, 0.9]
    found = gmm.guide.quantiles(gmm.params, levels)["components"][..., 0]
    niw = gmm.guide.get_posterior(gmm.params)["components"]
    df = niw.df - 1
    variance = jnp.diagonal(niw.scale_matrix, axis1=-2, axis2=-1)
    scale = jnp.sqrt(variance / (niw.concentration * df)[:, None])
    for level, quantile in zip(levels, found):
        expected = stats.t.ppf(level, df[:, None], niw.loc, scale)
        np.testing.assert_allclose((quantile - expected) / scale, 0.0, atol=0.12)


def test_medians_lie_between_the_quantiles(gmm):
    low, high = (gmm.guide.quantiles(gmm.params, q) for q in (0.4, 0.6))
    median = gmm.guide.median(gmm.params)
    parts = {"components_loc", "components_cov"}  # deterministic sites
    assert set(median) == {"weights", "components", *parts}
    for name, value in median.items():
        assert np.all(low[name] < value) and np.all(value < high[name])
    weights = gmm.guide.get_posterior(gmm.params)["weights"]
    np.testing.assert_allclose(median["weights"], weights.mean, atol=0.02)


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)])
def test_draws_of_global_sites_need_no_data(gmm, sample_shape):
    draws = gmm.guide.sample_posterior(
        random.PRNGKey(0), gmm.params, sample_shape=sample_shape
    )
    assert {name: value.shape for name, value in draws.items()} == {
        "weights": (*sample_shape, 3),
        "components": (*sample_shape, 3, 2, 3),
        "components_loc": (*sample_shape, 3, 2),
        "components_cov": (*sample_shape, 3, 2, 2),
    }


def test_draws_of_global_sites_have_the_posterior_mean(gmm):
    draws = gmm.guide.sample_posterior(
        random.PRNGKey(0), gmm.params, sample_shape=(4000,)
    )
    for name, fn in gmm.guide.get_posterior(gmm.params).items():
        error = 4 * draws[name].std(0) / np.sqrt(4000)
        assert np.all(np.abs(draws[name].mean(0) - fn.mean) < error + 1e-6)


def test_draws_of_local_sites_follow_their_marginals(lds):
    draws = lds.guide.sample_posterior(
        random.PRNGKey(0), lds.params, *lds.args, sample_shape=(2000,)
    )
    assert draws["x"].shape == (2000, 4, 5, 2)
    assert draws["dynamics"].shape == (2000, 2, 5)
    chain = lds.guide.posterior_local(lds.params, *lds.args)["x"]
    spread = jnp.sqrt(jnp.diagonal(chain.covariance, axis1=-2, axis2=-1))
    error = (draws["x"].mean(0) - chain.mean) / (spread / np.sqrt(2000))
    assert np.max(np.abs(error)) < 4.5
    np.testing.assert_allclose(draws["x"].std(0), spread, rtol=0.1)


def test_local_posterior_of_a_chain(lds):
    local = lds.guide.posterior_local(lds.params, *lds.args)
    assert set(local) == {"x"}
    chain = local["x"]
    assert isinstance(chain, ns.LinearGaussianChain)
    assert chain.mean.shape == (4, 5, 2)
    assert np.all(np.linalg.eigvalsh(chain.covariance) > 0)


def test_local_posterior_of_a_mixture(svae, gmm):
    local = svae.guide.posterior_local(svae.params, *svae.args)
    assert isinstance(local["z"], dist.CategoricalLogits)
    assert isinstance(local["x"], dist.MixtureSameFamily)
    assert local["z"].probs.shape == (4, 3)
    assert set(gmm.guide.posterior_local(gmm.params, *gmm.args)) == {"z"}


def test_local_posterior_of_a_mean_field_mixture_is_gaussian(svae):
    guide = ns.AutoSVAE(mixture_svae, mixture_recognition, mean_field=True)
    local = guide.posterior_local(svae.params, *svae.args)
    assert isinstance(local["x"], dist.MultivariateNormal)
    np.testing.assert_allclose(local["z"].probs.sum(-1), 1.0, rtol=1e-5)


def test_new_data_may_have_another_size(lds):
    y, actions = sequences(count=2, steps=9, seed=3)
    chain = lds.guide.posterior_local(lds.params, y, actions)["x"]
    assert chain.mean.shape == (2, 9, 2)
    first = lds.guide.posterior_local(lds.params, y[:1], actions[:1])["x"]
    np.testing.assert_allclose(first.mean, chain.mean[:1], rtol=1e-4, atol=1e-5)


def test_local_posterior_can_be_compiled(svae):
    def probs(params, y):
        return svae.guide.posterior_local(params, y)["z"].probs

    y = svae.args[0]
    compiled = jax.jit(probs)(svae.params, y)
    np.testing.assert_allclose(compiled, probs(svae.params, y), rtol=1e-4)
