# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""ArviZ data of fitted guides, and the likelihoods in them."""

import arviz as az
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import dirichlet, multivariate_normal, nbinom, norm

import numpyro_svae as ns
from numpyro_svae.diagnostics.evidence import conditional_likelihood, integrated
from numpyro_svae.diagnostics.fit import Fit
from tests.conjugate import gaussian
from tests.data import make_svi, steps
from tests.guide.conftest import DRAWS

IS_1 = "InferenceData" not in vars(az)


def poisson(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def group(idata, name):
    """A group as a data set: a DataTree's is a node of it."""
    found = idata[name]
    return found.to_dataset() if hasattr(found, "to_dataset") else found


def test_every_group_is_there_with_named_dimensions(lds_data):
    posterior = group(lds_data, "posterior")
    lead = ("chain", "draw")
    assert posterior["x"].dims == (*lead, "sequences", "time", "state")
    assert posterior["init_loc"].dims == (*lead, "state")
    assert posterior["init_cov"].dims == (*lead, "state", "state_bis")
    assert posterior["dynamics_weight"].dims == (*lead, "state", "regressor")
    assert "init" not in posterior  # packed: its parts are shown instead
    prior = group(lds_data, "prior")
    assert prior["x"].shape == posterior["x"].shape == (1, DRAWS, 4, 5, 2)
    for name in ("prior_predictive", "posterior_predictive"):
        y = group(lds_data, name)["y"]
        assert y.shape == (1, DRAWS, 4, 5, 3)
        assert np.std(y, axis=1).min() > 0  # new data, not those that were given
    assert group(lds_data, "observed_data")["y"].shape == (4, 5, 3)
    constants = group(lds_data, "constant_data")
    assert constants["actions"].shape == (4, 4, 1)
    assert constants["elbo"].dims == ("svi_step",)
    likelihood = group(lds_data, "log_likelihood")["y"]
    assert likelihood.dims == (*lead, "sequences")
    for name in ("posterior", "prior", "log_likelihood", "sample_stats"):
        data = group(lds_data, name)
        assert all(np.isfinite(data[v]).all() for v in data.data_vars)


def test_reconstructions_are_nearer_to_the_data_than_the_prior_is(lds_data):
    y = group(lds_data, "observed_data")["y"].values

    def distance(name):
        return np.abs(group(lds_data, name)["y"].values - y).mean()

    assert distance("posterior_predictive") < 0.7 * distance("prior_predictive")


def test_likelihood_of_a_mixture_is_exact_with_one_particle(gmm, mixture_data):
    posterior = group(mixture_data, "posterior")
    (y,) = gmm.args
    found = group(mixture_data, "log_likelihood")["y"].values[0]
    weights, loc, cov = (
        posterior[name].values[0].astype(float)
        for name in ("weights", "components_loc", "components_cov")
    )
    expected = [
        logsumexp(
            [
                np.log(weights[s, k])
                + multivariate_normal(loc[s, k], cov[s, k]).logpdf(y)
                for k in range(3)
            ],
            axis=0,
        )
        for s in range(DRAWS)
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_likelihood_behind_a_network_is_that_of_quadrature(svae):
    """A sum over a fine grid of the two latent dimensions is the oracle."""
    (y,) = svae.args
    fit = Fit(svae.model, svae.guide, svae.params, svae.args, {})
    assert list(integrated(fit).plates.values()) == ["data"]
    draw = svae.guide.sample_posterior(random.PRNGKey(3), svae.params)
    found = conditional_likelihood(fit, random.PRNGKey(4), draw, 4000)
    axis = np.linspace(-12, 12, 481)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    picture = np.tanh(grid @ svae.params["first"]) @ svae.params["second"]
    loc, cov = draw["components"][..., 0], draw["components"][..., 1:]
    prior = logsumexp(
        [
            np.log(draw["weights"][k])
            + multivariate_normal(loc[k], cov[k]).logpdf(grid)
            for k in range(3)
        ],
        axis=0,
    )
    cell = 2 * np.log(axis[1] - axis[0])
    expected = [
        logsumexp(prior + norm(picture, 0.3).logpdf(v).sum(-1)) + cell for v in y
    ]
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_weights_of_an_exact_posterior_are_the_evidence(x64):
    """Also where the program holds precisions and the guide variances."""
    y = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2)))

    guide = ns.AutoSVAE(gaussian)
    params, losses = steps(make_svi(gaussian, guide, natural=1.0), 2, y)
    idata = ns.to_arviz(gaussian, guide, params, y, num_samples=10)
    log_weight = group(idata, "sample_stats")["log_weight"]
    np.testing.assert_allclose(log_weight, -losses[1], rtol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_arviz_works_with_it(mixture_data):
    summary = az.summary(mixture_data, var_names=["weights", "components_loc"])
    assert len(summary) == 3 + 6
    loo = az.loo(mixture_data)
    likelihood = group(mixture_data, "log_likelihood")["y"].values[0]
    insample = (logsumexp(likelihood, axis=0) - np.log(DRAWS)).sum()
    found = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    assert insample - 30 < found < insample
    assert len(az.compare({"one": mixture_data, "two": mixture_data})) == 2


@pytest.mark.filterwarnings("ignore")
def test_priors_of_the_sites_are_what_sensitivity_is_judged_by(mixture_data):
    """By power scaling; a prior that is flat in the posterior has none."""
    priors, posterior = (group(mixture_data, n) for n in ("log_prior", "posterior"))
    assert priors["components"].dims == ("chain", "draw", "components_plate")
    assert posterior["weights"].dims == priors["components"].dims
    draws = posterior["weights"].values.astype(float)
    first = posterior.attrs
    assert first["inference_library"] == "numpyro" and first["created_at"]
    expected = [dirichlet.logpdf(x / x.sum(), np.full(3, 0.7)) for x in draws[0]]
    np.testing.assert_allclose(priors["weights"][0], expected, rtol=1e-4)
    if IS_1:
        found = az.psense_summary(mixture_data, var_names=["weights"])["prior"]
    else:
        found = az.psens(mixture_data, component="prior", var_names=["weights"])
    sensitivity = np.ravel(found).astype(float)
    assert sensitivity.shape == (3,) and np.isfinite(sensitivity).all()


@pytest.mark.filterwarnings("ignore")
def test_plots_of_arviz_work_with_it(mixture_data):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    az.plot_forest(mixture_data, var_names=["weights", "components_loc"])
    az.plot_pair(mixture_data, var_names=["weights"])
    pyplot.close("all")


def corrected_loo(idata):
    """Leave-one-out cross-validation that allows for the guide being approximate."""
    stats, likelihood = group(idata, "sample_stats"), group(idata, "log_likelihood")
    if IS_1:
        names = {"log_p": stats["lp"], "log_q": stats["log_q"]}
        return az.loo_approximate_posterior(idata, **names, pointwise=True).elpd
    values = likelihood["y"].values[0]
    ratio = stats["log_weight"].values[0][:, None] - values
    log_weights, _ = az.psislw(ratio.T)
    return logsumexp(log_weights.T + values, axis=0).sum()


@pytest.mark.filterwarnings("ignore")
def test_leave_one_out_is_corrected_for_an_approximate_posterior(x64):
    """What each count is worth given the others has a closed form, from Gammas.

    The posterior that is held is not the exact one, but too wide and beside it.
    """
    y = jnp.asarray(np.random.default_rng(0).poisson(4.0, 12))
    guide = ns.AutoSVAE(poisson)
    params, _ = steps(make_svi(poisson, guide), 1, y)
    (exact,) = params.values()
    wrong = {name: exact.scale(0.4) for name in params}
    shape, rate = 2.0 + y.sum() - y, 1.5 + len(y) - 1
    expected = nbinom(shape, rate / (rate + 1)).logpmf(y).sum()

    options = {"num_samples": 4000, "num_particles": 1}
    idata = ns.to_arviz(poisson, guide, wrong, y, **options)
    plain = az.loo(idata, pointwise=True)
    plain = plain.elpd if IS_1 else plain.elpd_loo
    assert abs(plain - expected) > 0.3
    np.testing.assert_allclose(corrected_loo(idata), expected, atol=0.05)


def test_what_is_wrong_is_said(gmm):
    model, guide, params, args = gmm.model, gmm.guide, gmm.params, gmm.args
    with pytest.raises(ValueError, match=r"local_sites: found \['x'\].*\['z'\]"):
        ns.to_arviz(model, guide, params, *args, num_samples=2, local_sites=["x"])
    with pytest.raises(TypeError, match="AutoNormal; accepted is AutoSVAE"):
        ns.to_arviz(model, numpyro.infer.autoguide.AutoNormal(model), params, *args)


def test_a_site_may_have_the_name_of_a_dimension():
    def model(y):
        probs = numpyro.sample("category", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Categorical(probs), obs=y)

    y = jnp.array([0, 1, 2, 2])
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 2, y)
    idata = ns.to_arviz(model, guide, params, y, num_samples=3)
    probs = group(idata, "posterior")["category"]
    assert probs.dims[-1] == "category_dim"
    found = group(idata, "log_likelihood")["y"].values[0]
    np.testing.assert_allclose(found, np.log(probs.values[0])[:, y], rtol=1e-5)
