# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The report on a fit: each number has an oracle, and the text says what they mean."""

from functools import cache, partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO, psis_diagnostic
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.calibration import vsbc_diagnostic
import pytest
from scipy.stats import chi2, ks_2samp, t as student

import numpyro_svae as ns
from numpyro_svae.diagnostics import draws, reliability
from numpyro_svae.diagnostics.evidence import global_draw, integrated
from numpyro_svae.diagnostics.fit import read_fit
from numpyro_svae.diagnostics.influence import PriorShare, prior_shares
from numpyro_svae.families import (
    DirichletNatural,
    GammaNatural,
    GaussianNatural,
    RegressionNatural,
)
from numpyro_svae.inference.local.posterior import Convergence
from tests.data import make_svi, sequences, steps
from tests.models import observed_lds
from tests.switching import TURNS, known_slds

DRAWS = 1000


@pytest.fixture(scope="module")
def mixture_report(gmm):
    """A report, and the weights that the two k-hats are of."""
    seen = []

    def looked_at(key, params, program, guide, **options):
        def log_weight(key):
            run = handlers.seed(program, key)
            return handlers.trace(run).get_trace()["log_weight"]["fn"].log_factor

        k = psis_diagnostic(key, params, program, guide, **options)
        seen.append((k, jax.vmap(log_weight)(random.split(key, DRAWS))))
        return k

    with jax.enable_x64(False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(reliability, "psis_diagnostic", looked_at)
        args = gmm.model, gmm.guide, gmm.params, *gmm.args
        found = ns.report(*args, num_samples=DRAWS, num_particles=1, show=False)
    (k, weights), (k_joint, weights_joint) = seen
    assert (found.pareto_k, found.pareto_k_joint) == (k, k_joint)
    return found, weights, weights_joint


@pytest.fixture(scope="module")
def observed():
    """A system of one dimension whose states are seen: its posterior is exact."""
    with jax.enable_x64(False):
        x = np.random.default_rng(0).standard_normal((3, 8, 1))
        x, guide = jnp.asarray(x, jnp.float32), ns.AutoSVAE(observed_lds)
        params, _ = steps(make_svi(observed_lds, guide), 2, x)
        return observed_lds, guide, params, x


@pytest.fixture(scope="module")
def switching():
    """A switching system of known parameters, with a padded sequence."""
    with jax.enable_x64(False):
        y, _ = sequences(count=2, steps=6, outputs=2)
        y, lengths = y.astype(jnp.float32), jnp.array([6, 3])

        @cache
        def found(**options):
            fixed_point = ns.FixedPoint(**options)
            guide = ns.AutoSVAE(known_slds, fixed_point=fixed_point)
            options = {"num_samples": 100, "show": False, "lengths": lengths}
            return guide, ns.report(known_slds, guide, {}, y, **options)

        return y, lengths, found


@pytest.mark.slow
def test_pareto_k_of_all_sites_is_that_of_their_weights(gmm, mixture_report):
    """A single-sample estimate of the ELBO by NumPyro is the logarithm of a weight."""
    model, guide, params, args = gmm.model, gmm.guide, gmm.params, gmm.args

    @jax.jit
    @jax.vmap
    def losses(key):
        return Trace_ELBO().loss(key, params, model, guide, *args)

    expected = -losses(random.split(random.PRNGKey(9), DRAWS))
    assert ks_2samp(mixture_report[2], expected).pvalue > 0.01
    k = psis_diagnostic(random.PRNGKey(9), params, model, guide, *args)
    assert np.isfinite(k)  # NumPyro's function also works on the guide as it is


@pytest.mark.slow
def test_pareto_k_of_global_sites_is_that_of_their_weights(gmm, mixture_report):
    """Those that ArviZ is given, which are tested against closed forms."""
    args = gmm.model, gmm.guide, gmm.params, *gmm.args
    idata = ns.to_arviz(*args, num_samples=DRAWS, num_particles=1)
    expected = idata["sample_stats"]["log_weight"].values[0]
    assert ks_2samp(mixture_report[1], expected).pvalue > 0.01


def test_a_posterior_that_is_known_is_not_inferred_with_each_draw(gmm):
    fit = read_fit(gmm.model, gmm.guide, gmm.params, gmm.args, {})
    keys = random.split(random.PRNGKey(1), 3)
    local = gmm.guide._infer_all(fit.params, gmm.args, {}, examine=False)[2]
    weigh = partial(reliability.draw_weighed, fit, keys)
    infers = [
        "name=local_posterior" in str(jax.make_jaxpr(weigh)(x)) for x in (None, local)
    ]
    assert infers == [True, False]
    own, known = jax.jit(weigh)(None), jax.jit(weigh)(local)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5), known, own)


def test_draws_are_weighed_some_at_a_time(gmm, monkeypatch):
    """Seven of them, by a program for three."""
    fit, key = read_fit(gmm.model, gmm.guide, gmm.params, gmm.args, {}), random.key(2)
    keys = random.split(key, 7)
    values = jax.vmap(partial(global_draw, fit))(keys)
    integrated(fit, lambda: jax.tree.map(lambda x: x[0], values))
    monkeypatch.setattr(draws, "AT_ONCE", 3)
    found = draws.weigh_all(fit, key, values, 1)
    expected = jax.jit(lambda: draws.weigh(fit, keys, values, 1))()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


@pytest.mark.slow
def test_expected_counts_are_sums_of_responsibilities(gmm, mixture_report):
    probs = gmm.guide.posterior_local(gmm.params, *gmm.args)["z"].probs
    report, *_ = mixture_report
    np.testing.assert_allclose(report.counts["z"], probs.sum(0), rtol=1e-5)
    assert report.active == {"z": 3}


@pytest.mark.slow
def test_padding_is_in_no_state(switching):
    y, lengths, found = switching
    guide, report = found()
    probs = guide.posterior_local({}, y, lengths=lengths)["z"].probs
    expected = probs[0].sum(0) + probs[1, :3].sum(0)
    np.testing.assert_allclose(report.counts["z"], expected, rtol=1e-5)


@pytest.mark.slow
def test_known_dynamics_have_their_eigenvalues(switching):
    _, _, found = switching
    values = found()[1].eigenvalues["x"]
    assert values.shape == (1, 2, 2)
    moduli = np.sort(np.abs(values[0]).max(-1))
    expected = np.sort(np.abs(np.linalg.eigvals(TURNS)).max(-1))
    np.testing.assert_allclose(moduli, expected, rtol=1e-5)


@pytest.mark.slow
def test_sweeps_that_have_not_converged_are_reported(switching):
    *_, found = switching
    report = found()[1]
    assert report.converged == {"z": True, "x": True}
    assert np.isnan(report.pareto_k) and "there are none" in str(report)
    assert "sweeps of 'z'" in str(report) and "not converged" not in str(report)
    with pytest.warns(RuntimeWarning, match="has ended after 1 sweeps"):
        cut = found(max_sweeps=1)[1]
    assert cut.converged == {"z": False, "x": False}
    assert "1, not converged: residual" in str(cut)


def known_turn(x, drifts):
    """Known dynamics, beside a drift or a noise that is learnt."""
    inputs, turn = None, jnp.asarray(TURNS[0])
    if drifts:
        prior = ns.NormalInverseWishart(jnp.zeros(2), 1.0, 4.0, jnp.eye(2))
        drift, cov = ns.sample("pair", prior)
        inputs, turn = jnp.ones((7, 1)), jnp.concatenate([turn, drift[:, None]], -1)
    else:
        cov = jnp.eye(2) / numpyro.sample("noise", dist.Gamma(2.0, 2.0))
    start = jnp.zeros(2), jnp.eye(2)
    chain = ns.LinearGaussianChain(*start, turn, cov, inputs=inputs, num_steps=8)
    numpyro.sample("x", chain, obs=x)


@pytest.mark.parametrize("drifts", [False, True])
def test_eigenvalues_of_known_dynamics_beside_something_learnt(drifts):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 2)), jnp.float32)
    guide = ns.AutoSVAE(known_turn)
    params, _ = steps(make_svi(known_turn, guide), 1, x, drifts)
    args = known_turn, guide, params, x, drifts
    found = ns.report(*args, num_samples=100, show=False).eigenvalues["x"]
    expected = np.sort_complex(np.linalg.eigvals(TURNS[0]))
    found = np.sort_complex(found)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), 1e-5)
    assert len(found) == (100 if drifts else 1)


def test_eigenvalues_of_learnt_dynamics_follow_their_posterior(observed):
    """Those of one dimension are the entry, whose posterior is a Student's t."""
    _, guide, params, x = observed
    report = ns.report(observed_lds, guide, params, x, num_samples=4000, show=False)
    posterior = guide.get_posterior(params)["dynamics"]
    loc, tril, scale, df = posterior.natural_parameters.to_standard()
    spread = scale[0, 0] / tril[0, 0] / np.sqrt(df)
    expected = student(df, loc[0, 0], spread).ppf([0.1, 0.5, 0.9])
    draws = report.eigenvalues["x"]
    assert draws.shape == (4000, 1)
    found = np.quantile(draws.real, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_array_equal(report.spectral_radius["x"], np.abs(draws[:, 0]))
    # what is observed has an exact posterior, and the counts of its transitions
    assert report.pareto_k == report.pareto_k_joint == -np.inf
    np.testing.assert_allclose(report.priors["dynamics covariance"].data, 3 * 7)
    np.testing.assert_allclose(report.priors["init weight"].data, 3, rtol=1e-5)
    assert "the guide is exact" in str(report)


def test_shares_of_priors_are_counts_of_what_was_seen(x64):
    rng = np.random.default_rng(0)
    prior = DirichletNatural(jnp.array([[0.5, 0.5], [1.0, 2.0]]))
    seen = DirichletNatural(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    (part,) = prior_shares(prior + seen, prior).values()
    np.testing.assert_allclose(part.data, [7.0, 0.0])
    np.testing.assert_allclose(part.share, [1 / 8, 1.0])

    gamma = GammaNatural(jnp.array(2.0), jnp.array(1.0))
    (part,) = prior_shares(gamma + GammaNatural(jnp.array(6.0), 3.0), gamma).values()
    np.testing.assert_allclose([part.share, part.prior, part.data], [0.25, 2, 6])

    design = rng.standard_normal((20, 3))
    known = GaussianNatural.from_mean(jnp.zeros(3), jnp.eye(3))
    data = GaussianNatural(jnp.zeros(3), jnp.asarray(design.T @ design))
    (part,) = prior_shares(known + data, known).values()
    found = np.linalg.eigvalsh(design.T @ design)
    np.testing.assert_allclose(part.share, np.mean(1 / (1 + found)))

    weight = RegressionNatural.from_standard(
        jnp.zeros((2, 3)), jnp.eye(3), jnp.eye(2), jnp.array(4.0)
    )
    one = RegressionNatural.observe(rng.standard_normal((20, 2)), jnp.asarray(design))
    parts = prior_shares(weight + jax.tree.map(lambda leaf: leaf.sum(0), one), weight)
    np.testing.assert_allclose(parts["weight"].share, np.mean(1 / (1 + found)))
    np.testing.assert_allclose(parts["covariance"].share, 4 / 24)


def test_the_report_is_printed_in_short(observed, capsys):
    model, guide, params, x = observed
    found = ns.report(model, guide, params, x, losses=np.arange(40.0, 0.0, -1.0))
    text = str(found)
    assert capsys.readouterr().out == f"{text}\n"
    assert found.elbo == -2.5 and "-2.5, +4 on the tenth of the steps before" in text
    assert "none: all weights are equal, the guide is exact" in text
    assert "spectral radius of 'x'" in text and "above 1: 0%" in text
    assert "12.5% of the posterior: 3 pseudo-counts, 21 of data" in text


def test_the_report_says_what_is_wrong():
    settled = Convergence(
        np.array([4, 9]), np.array([0.5, 0.9]), np.array([True, True])
    )
    astray = Convergence(np.array([100]), np.array([7.0]), np.array([False]))
    found = ns.Report(
        elbo=None,
        elbo_gain=None,
        pareto_k=0.41,
        pareto_k_joint=1.3,
        counts={"z": np.array([20.0, 0.2, 9.8])},
        eigenvalues={"x": np.array([[[0.5, 0.2j], [1.1, 0.1]]])},
        convergence={"a": settled, "b": astray},
        priors={"w": PriorShare(np.array([0.1, 0.9]))},
        collapsed={"u": "its posterior is its prior"},
        skipped=3,
    )
    assert found.active == {"z": 2}
    assert found.converged == {"a": True, "b": False}
    lines = [line.split("  ")[-1].strip() for line in str(found).splitlines()]
    assert lines == [
        "3, as they were not finite",
        "its posterior is its prior",
        "0.41, good",
        "1.30, bad",
        "2 of 3 have data: 20, 9.8, 0.2",
        "0.500 [0.500, 0.500], above 1: 0%",
        "1.100 [1.100, 1.100], above 1: 100%",
        "9, converged",
        "100, not converged: residual 7; "
        "the adjoint of implicit gradients is not found",
        "10.0% to 90.0% of the posterior",
    ]


def test_what_is_wrong_is_said(observed):
    model, guide, params, x = observed
    with pytest.raises(TypeError, match="AutoNormal; accepted is AutoSVAE"):
        ns.report(model, AutoNormal(model), params, x)
    with pytest.raises(ValueError, match="num_samples: found 10; accepted are 100"):
        ns.report(model, guide, params, x, num_samples=10)


def counts(y=None, times=1.0):
    """Counts with one rate, which the guide may be made to see several times."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
    with numpyro.plate("data", 4), handlers.scale(scale=times):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def ranks(times):
    """NumPyro's simulation-based calibration of a guide after one exact step."""
    model = partial(counts, times=times)
    return vsbc_diagnostic(
        random.PRNGKey(0),
        model,
        ns.AutoSVAE(model),
        numpyro.optim.optax_to_numpyro(ns.svae_optimizer(natural=1.0)),
        ns.SVAE_ELBO(),
        observed_sites=["y"],
        num_simulations=300,
        num_svi_steps=1,
        num_samples=199,
        chain_method="vectorized",
    ).ranks["rate"]


def test_simulation_based_calibration():
    """Ranks under an exact posterior are uniform, under one that is too sure not."""
    for times, uniform in ((1.0, True), (3.0, False)):
        found = np.histogram(ranks(times), 10, (0, 200))[0]
        distance = np.sum((found - 30) ** 2 / 30)  # a chi-square of 9, if uniform
        assert (distance < chi2(9).ppf(0.999)) == uniform


def test_states_with_data_are_those_that_the_data_see():
    y, rows = jnp.array([[2.0, -1.0, 3.0], [1.0, 1.0, -2.0]]), jnp.array([[0.8, 0.2]])

    def model(y):
        loc, known = jnp.array([-1.0, 1.0]), jnp.array([1.0, 0.0])
        with numpyro.plate("sequences", 2):
            chain = ns.DiscreteMarkovChain(known, jnp.tile(rows, (2, 1)), num_steps=4)
            z = numpyro.sample("z", chain)  # of which the first state has no data
            seen = dist.Normal(loc[z[:, 1:]], 1.0).to_event(1)
            numpyro.sample("y", seen, obs=y)

    guide = ns.AutoSVAE(model, num_starts=1)
    found = ns.report(model, guide, {}, y, show=False).counts["z"]
    expected = guide.posterior_local({}, y)["z"].probs[:, 1:].sum((0, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
