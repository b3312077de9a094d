# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scales whose priors are not conjugate, against quadrature and closed forms."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.distributions.root_inverse_gamma import RootInverseGamma
from numpyro_svae.distributions.truncated_gamma import PowerOfTruncatedGamma
from numpyro_svae.families import GammaNatural, LogBounds, TruncatedGammaNatural
from numpyro_svae.families.free_prior import closest_gamma, free_kl
from tests.data import make_svi, steps

Y = np.random.default_rng(0).normal(0.0, 1.7, 12)
PRIORS = [
    dist.HalfNormal(1.0),
    dist.HalfCauchy(2.0),
    dist.LogNormal(0.0, 1.0),
    dist.Exponential(1.0),
    dist.Weibull(1.0, 2.0),
    dist.Gamma(2.0, 1.0),
]
SHAPES, RATES = np.array([1.3, 4.0, 200.0]), np.array([2.0, 1.5, 300.0])
of_class = partial(pytest.mark.parametrize, ids=lambda fn: type(fn).__name__)


def of_precision(prior, log_precision):
    """The density of the log of a precision whose root has a prior."""
    scale = jnp.exp(-0.5 * log_precision)
    return prior.log_prob(scale) + jnp.log(0.5 * scale)


def test_a_gamma_prior_sends_its_closed_form(x64):
    prior = dist.Gamma(2.0, 3.0)

    def density(prior, log):
        return prior.log_prob(jnp.exp(log)) + log

    posterior = GammaNatural(jnp.asarray(SHAPES), jnp.asarray(RATES))
    own = GammaNatural(jnp.full(3, 2.0), jnp.full(3, 3.0))
    message = closest_gamma(density, posterior, prior)
    np.testing.assert_allclose(message.concentration, own.concentration, rtol=1e-10)
    np.testing.assert_allclose(message.rate, own.rate, rtol=1e-10)
    found = free_kl(density, posterior, prior)
    np.testing.assert_allclose(found, posterior.kl(own), rtol=1e-10)


@of_class("prior", PRIORS)
def test_the_divergence_and_its_natural_gradient(prior, x64):
    grid = jnp.linspace(-110.0, 15.0, 200_001)[:, None]
    a, b = jnp.asarray(SHAPES), jnp.asarray(RATES)
    posterior = GammaNatural(a, b)
    own = dist.Gamma(a, b).log_prob(jnp.exp(grid)) + grid
    terms = jnp.where(own > -300, jnp.exp(own) * (own - of_precision(prior, grid)), 0.0)
    expected = jnp.trapezoid(terms, grid, axis=0)
    found = free_kl(of_precision, posterior, prior)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    # the natural gradient is the ordinary one, solved with the Fisher information
    total = jax.grad(lambda q: jnp.sum(free_kl(of_precision, q, prior)))(posterior)

    def reweighted(point, a, b):
        """The divergence near a posterior, whose nodes have weights that follow."""
        log = dist.Gamma(point[0], point[1]).log_prob(jnp.exp(grid[:, 0])) + grid[:, 0]
        values = jnp.exp(log) * (log - of_precision(prior, grid[:, 0]))
        return jnp.trapezoid(jnp.where(log > -300, values, 0.0), grid[:, 0])

    for i in range(len(a)):
        point = jnp.array([a[i], b[i]])
        slope = jax.grad(reweighted)(point, a[i], b[i])
        fisher = jax.hessian(lambda p: GammaNatural(*p).log_normalizer())(point)
        natural = jnp.linalg.solve(fisher, slope)
        pair = total.concentration[i], total.rate[i]
        np.testing.assert_allclose(pair, natural, rtol=1e-5)


@of_class("prior", PRIORS)
def test_a_scale_has_the_posterior_that_quadrature_finds(prior, x64):
    def model():
        scale = numpyro.sample("scale", prior)
        with numpyro.plate("data", len(Y)):
            numpyro.sample("y", dist.Normal(0.0, scale), obs=Y)

    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=0.5), 60)
    logs = np.linspace(-4.0, 4.0, 4001)
    seen = dist.Normal(0.0, np.exp(logs)[:, None]).log_prob(Y).sum(-1)
    density = prior.log_prob(np.exp(logs)) + logs + seen
    evidence = jax.nn.logsumexp(density) + np.log(logs[1] - logs[0])
    weights = np.exp(density - jax.nn.logsumexp(density))
    mean = np.sum(weights * np.exp(logs))
    sd = np.sqrt(np.sum(weights * np.exp(2 * logs)) - mean**2)
    assert "'scale', whose prior is not conjugate" in str(guide.structure)
    posterior = guide.get_posterior(params)["scale"]
    assert 0 < losses[-1] + evidence < 0.005  # what a Gamma of precisions cannot say
    np.testing.assert_allclose(posterior.mean, mean, rtol=0.005)
    np.testing.assert_allclose(jnp.sqrt(posterior.variance), sd, rtol=0.05)
    natural = params[guide._natural_name("scale")]
    message = closest_gamma(of_precision, natural, prior)
    shape = message.concentration + len(Y) / 2
    np.testing.assert_allclose(natural.concentration, shape, rtol=1e-6)
    rate = message.rate + np.sum(Y**2) / 2
    np.testing.assert_allclose(natural.rate, rate, rtol=1e-6)


def noise(how):
    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        fn = dist.HalfNormal(1.5).expand([2]).to_event(1)
        value = numpyro.sample("value", fn)
        scale = {
            "precision": 1 / jnp.sqrt(value),
            "variance": jnp.sqrt(value),
            "scale": value,
        }[how]
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(loc, scale).to_event(1), obs=y)

    return model


@pytest.mark.parametrize(
    ("how", "family"),
    [
        ("precision", dist.Gamma),
        ("variance", dist.InverseGamma),
        ("scale", RootInverseGamma),
    ],
)
def test_what_a_site_is_the_scale_of_is_read_from_the_program(how, family):
    y = jnp.asarray(Y.reshape(6, 2)) + jnp.array([1.0, -1.0])
    model = noise(how)
    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=0.5), 30, y)
    posterior = guide.get_posterior(params)["value"]
    assert isinstance(posterior.base_dist, family) and posterior.event_shape == (2,)
    assert losses[-1] < losses[0] + 1e-3 and np.isfinite(losses).all()
    with handlers.seed(rng_seed=0):
        drawn = guide.sample_posterior(random.PRNGKey(0), params, y)
    assert drawn["value"].shape == (2,)


def test_parameters_of_a_prior_have_the_gradient_of_the_bound(x64):
    def model():
        size = numpyro.param("size", 1.3, constraint=dist.constraints.positive)
        scale = numpyro.sample("scale", dist.HalfNormal(size))
        with numpyro.plate("data", len(Y)):
            numpyro.sample("y", dist.Normal(0.0, scale), obs=Y)

    guide = ns.AutoSVAE(model)
    svi = make_svi(model, guide)
    state = svi.init(random.PRNGKey(0))
    params, loss = svi.get_params(state), ns.SVAE_ELBO()

    def value(size):
        own = {**params, "size": size}
        return loss.loss(random.PRNGKey(0), own, model, guide)

    slope = (value(1.3 + 1e-4) - value(1.3 - 1e-4)) / 2e-4
    np.testing.assert_allclose(jax.grad(value)(1.3), slope, rtol=1e-6)


BOUNDED = [
    (dist.Uniform(0.0, 1.5), 1.0),
    (dist.Uniform(2.5, 3.0), 0.5),
    (dist.TruncatedNormal(1.0, 0.5, low=0.3, high=1.6), 1.0),
]


@pytest.mark.parametrize(("prior", "power"), BOUNDED)
def test_bounds_of_a_prior_are_bounds_of_the_posterior(prior, power, x64):
    """A uniform prior is conjugate; the posterior of another is the best truncated."""

    def model():
        scale = numpyro.sample("scale", prior)
        with numpyro.plate("data", len(Y)):
            numpyro.sample("y", dist.Normal(0.0, scale**power), obs=Y)

    exact = isinstance(prior, dist.Uniform)
    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=1.0 if exact else 0.5), 30)
    low, high = prior.support.lower_bound, prior.support.upper_bound
    nodes, masses = np.polynomial.legendre.leggauss(400)
    grid = low + (high - low) * (nodes + 1) / 2
    seen = dist.Normal(0.0, grid[:, None] ** power).log_prob(Y).sum(-1)
    density = prior.log_prob(grid) + seen + np.log(masses * (high - low) / 2)
    evidence = jax.nn.logsumexp(density)
    weights = np.exp(density - evidence)
    mean = np.sum(weights * grid)
    sd = np.sqrt(np.sum(weights * (grid - mean) ** 2))
    posterior = guide.get_posterior(params)["scale"]
    np.testing.assert_allclose(losses[-1], -evidence, atol=1e-10 if exact else 1e-3)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-9 if exact else 1e-3)
    own = jnp.sqrt(posterior.variance)
    np.testing.assert_allclose(own, sd, rtol=1e-9 if exact else 0.01)
    drawn = posterior.sample(random.PRNGKey(0), (20_000,))
    assert low <= jnp.min(drawn) and jnp.max(drawn) <= high
    np.testing.assert_allclose(jnp.mean(drawn), mean, atol=0.03 * sd)
    np.testing.assert_allclose(jnp.std(drawn), sd, rtol=0.03)
    at = np.exp(posterior.log_prob(grid)) * masses * (high - low) / 2
    np.testing.assert_allclose(np.sum(at), 1.0, rtol=1e-9)
    assert posterior.log_prob(high + 0.01) == -np.inf


def test_entries_have_bounds_of_their_own_and_data_pile_up_at_them():
    """In single precision, with many more data than the bounds allow for."""
    y = jnp.asarray(np.random.default_rng(1).normal(0.0, 3.0, (2000, 2)), jnp.float32)

    def model(y):
        high = jnp.array([1.0, 20.0])
        prior = dist.Uniform(0.0, high).to_event(1)
        scale = numpyro.sample("scale", prior)
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(0.0, scale).to_event(1), obs=y)

    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=0.5), 20, y)
    first, second = guide.get_posterior(params)["scale"].mean
    squares = float(
        jnp.sum(y[:, 0] ** 2)
    )  # near the bound the density is exp(squares s)
    np.testing.assert_allclose(1 - first, 1 / (squares - 2000), rtol=0.02)
    np.testing.assert_allclose(second, jnp.std(y[:, 1]), rtol=0.01)
    assert np.isfinite(losses).all()
    drawn = guide.sample_posterior(random.PRNGKey(0), params, y, sample_shape=(50,))
    assert (drawn["scale"][:, 0] <= 1.0).all() and (drawn["scale"][:, 0] > 0.99).all()


def test_draws_within_bounds_have_the_gradient_of_their_mean(x64):
    bounds = LogBounds(-1.0, 1.5)

    def drawn(shape, rate):
        fn = PowerOfTruncatedGamma(shape, rate, -2, bounds)
        return jnp.mean(fn.sample(random.PRNGKey(0), (40_000,)))

    def mean(shape, rate):
        return PowerOfTruncatedGamma(shape, rate, -2, bounds).mean

    at = jnp.array(-0.7), jnp.array(1.3)
    step = 1e-4
    for index in range(2):
        moved = [
            tuple(x + s * step * (i == index) for i, x in enumerate(at))
            for s in (1, -1)
        ]
        slope = (mean(*moved[0]) - mean(*moved[1])) / (2 * step)
        found = jax.grad(drawn, index)(*at)
        np.testing.assert_allclose(found, slope, rtol=0.03)


def test_a_scale_that_nothing_is_seen_of_has_its_uniform_prior(x64):
    natural = TruncatedGammaNatural(
        jnp.array(-0.5), jnp.array(0.0), LogBounds(-2 * np.log(5.0))
    )
    assert natural.in_domain()
    fn = PowerOfTruncatedGamma(-0.5, 0.0, -2, natural.bounds, validate_args=True)
    np.testing.assert_allclose(fn.mean, 2.5, rtol=1e-9)
    np.testing.assert_allclose(fn.variance, 25 / 12, rtol=1e-9)
    np.testing.assert_allclose(jnp.exp(fn.log_prob(jnp.array([0.1, 4.9]))), 0.2)
    np.testing.assert_allclose(natural.kl(natural), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        jnp.quantile(fn.sample(random.PRNGKey(0), (9000,)), 0.3), 1.5, atol=0.06
    )


def test_bounds_that_are_not_known_are_refused_by_name():
    def model(y, high):
        scale = numpyro.sample("scale", dist.Uniform(0.0, high))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(0.0, scale), obs=y)

    match = "(?s)'scale' .Uniform.*arguments of the model.*HalfNormal"
    with pytest.raises(ValueError, match=match), handlers.seed(rng_seed=0):
        ns.AutoSVAE(model)(Y, jnp.array(3.0))


@pytest.mark.parametrize(
    ("prior", "of", "message"),
    [
        (dist.Uniform(-1.0, 1.0), lambda s: s, "bounds from -1.0 to 1.0.*Uniform.0.0"),
        (dist.HalfNormal(1.0), lambda s: s + 0.1, "HalfNormal.*HalfNormal, HalfC"),
        (
            dist.Exponential(-1.0, validate_args=False),
            lambda s: s,
            "hyperparameter of nan",
        ),
    ],
)
def test_what_cannot_be_a_scale_is_refused_by_name(prior, of, message):
    def model():
        with numpyro.validation_enabled(False):
            scale = numpyro.sample("scale", prior)
        with numpyro.plate("data", len(Y)):
            numpyro.sample("y", dist.Normal(0.0, of(scale)), obs=Y)

    with (
        pytest.raises(ValueError, match=f"(?s)'scale'.*{message}"),
        handlers.seed(rng_seed=0),
    ):
        ns.AutoSVAE(model)()


def test_moments_of_the_root_of_an_inverse_gamma(x64):
    fn = RootInverseGamma(jnp.array([0.8, 3.0]), jnp.array([1.0, 2.0]))
    grid = np.exp(np.linspace(-6.0, 30.0, 200_001))[:, None]
    density = np.exp(fn.log_prob(grid)) * grid
    mean = np.trapezoid(density * grid, np.log(grid), axis=0)
    np.testing.assert_allclose(fn.mean, mean, rtol=1e-3)
    second = np.trapezoid(density * grid**2, np.log(grid), axis=0)
    np.testing.assert_allclose(fn.variance[1], (second - mean**2)[1], rtol=1e-6)
    assert fn.variance[0] == np.inf


def test_spreads_of_a_population_are_standard_deviations(x64):
    """Each entry of the members has a scale of its own, at its fixed point."""
    y = np.random.default_rng(2).normal(0.0, [1.0, 4.0], (5, 2))
    seen = np.array([[0.3, 0.5, 0.8, 0.4, 0.6]]).T

    def model():
        top = numpyro.sample("top", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        prior = dist.HalfNormal(2.0).expand([2]).to_event(1)
        spread = numpyro.sample("spread", prior)
        with numpyro.plate("groups", len(y)):
            member = dist.Normal(top, spread).to_event(1)
            members = numpyro.sample("members", member)
        with numpyro.plate("data", len(y)):
            loc = members[jnp.arange(len(y))]
            numpyro.sample("y", dist.Normal(loc, seen).to_event(1), obs=y)

    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide, natural=0.5), 150)
    found, natural = guide.get_posterior(params), params[guide._natural_name("spread")]
    top, members = found["top"], found["members"]
    away = (members.mean - top.mean) ** 2 + members.variance + top.variance
    message = closest_gamma(of_precision, natural, dist.HalfNormal(2.0))
    shape = message.concentration + len(y) / 2
    np.testing.assert_allclose(natural.concentration, shape, rtol=1e-6)
    rate = message.rate + jnp.sum(away, 0) / 2
    np.testing.assert_allclose(natural.rate, rate, rtol=1e-6)
    assert jnp.ptp(found["spread"].mean) > 1  # they are told apart


def test_messages_are_finite_in_single_precision():
    """Also where the tail of a Gamma reaches beyond what can be squared."""
    posterior = GammaNatural(jnp.array([0.6, 1.0, 40.0]), jnp.array([0.4, 2.0, 1e-6]))
    message = closest_gamma(of_precision, posterior, dist.HalfCauchy(1.0))
    assert np.isfinite(message.concentration).all() and np.isfinite(message.rate).all()
