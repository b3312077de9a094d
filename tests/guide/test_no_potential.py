# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What works on vectors and paths that likelihoods send gradients to, and what not."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.infer import Predictive
import pytest

import numpyro_svae as ns
from numpyro_svae.diagnostics.evidence import conditional_likelihood
from numpyro_svae.diagnostics.fit import read_fit
from numpyro_svae.inference.local.found_messages import find_messages
from tests.data import make_svi, steps

KEY = random.PRNGKey(0)
RNG = np.random.default_rng(0)
N, T, D, P = 3, 5, 2, 3
LOADING = 0.5 * RNG.standard_normal((D, P))
COUNTS = 1.0 * RNG.poisson(1.5, (N, T, P))
SEEN = RNG.random((N, T)) < 0.7


def spread(loc):
    """A normal distribution that is not read as one."""
    one = dist.Categorical(jnp.ones((1,)))
    return dist.MixtureSameFamily(one, dist.Normal(loc[..., None], 0.5))


def poisson(loc):
    return dist.Poisson(jnp.exp(loc))


def dynamics(first="init"):
    prior = ns.NormalInverseWishart(jnp.zeros(D), 0.5, D + 2.0, jnp.eye(D))
    eye = jnp.eye(D)
    step = ns.MatrixNormalInverseWishart(0.9 * eye, eye, D + 2.0, 0.1 * eye)
    return ns.sample(first, prior), ns.sample("dynamics", step)


def system(y, fn=poisson, mask=True):
    """A path with dynamics that are learnt, and what is seen of it."""
    init, step = dynamics()
    with numpyro.plate("data", len(y)):
        chain = ns.LinearGaussianChain(*init, *step, num_steps=y.shape[1])
        x = numpyro.sample("x", chain)
        seen = fn(x @ LOADING).to_event(1).mask(mask).to_event(1)
        numpyro.sample("y", seen, obs=y)


def in_steps(y):
    """The same, as a scan."""
    (loc, cov), (F, Q) = dynamics()
    with numpyro.plate("data", len(y)):
        first = numpyro.sample("x_0", dist.MultivariateNormal(loc, cov))
        numpyro.sample("y_0", poisson(first @ LOADING).to_event(1), obs=y[:, 0])

    def step(x, y):
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.MultivariateNormal(x @ F.T, Q))
            numpyro.sample("y", poisson(x @ LOADING).to_event(1), obs=y)
        return x, None

    scan(step, first, jnp.moveaxis(y, 1, 0)[1:])


@pytest.fixture(scope="module")
def fitted():
    """A guide of counts, its parameters and losses."""
    guide = ns.AutoSVAE(system)
    params, losses = steps(make_svi(system, guide, 0.5), 20, COUNTS)
    return guide, params, losses


def test_dynamics_learn(fitted):
    guide, params, losses = fitted
    assert losses[-1] < losses[0] - 5.0
    assert np.all(np.diff(losses) < 0.01)  # nothing is sampled
    assert guide.convergence(params, COUNTS)["x"].residual <= 1
    assert "sends its gradient to 'x'" in str(guide.structure)


def test_posteriors_are_those_of_a_recognition_function_that_says_them(fitted):
    """All that reads a fit works beside one, and so here."""
    guide, params, _ = fitted
    potentials = found_potentials(guide, params, COUNTS)
    beside = ns.AutoSVAE(system, lambda y: potentials)
    expected = beside.posterior_local(params, COUNTS)["x"]
    found = guide.posterior_local(params, COUNTS)["x"]
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-3)
    draws = [own.sample_posterior(KEY, params, COUNTS)["x"] for own in (guide, beside)]
    np.testing.assert_allclose(*draws, rtol=1e-3, atol=1e-3)
    options = {"horizon": 2, "num_samples": 3}
    ahead = [
        ns.forecast(system, own, params, KEY, COUNTS, **options)["y"]
        for own in (guide, beside)
    ]
    assert np.mean(ahead[0] != ahead[1]) < 0.05  # counts, so all or nothing
    assert ahead[0].shape == (3, N, 2, P)
    drawn = Predictive(system, guide=guide, params=params, num_samples=2)(KEY, COUNTS)
    assert drawn["y"].shape == (2, N, T, P)


def found_potentials(guide, params, *args):
    """The potentials that the sweeps of a guide end at."""
    with handlers.block(), handlers.seed(rng_seed=0), handlers.substitute(data=params):
        read = guide._read(args, {})
    known = guide.ascent, read.bound, read.naturals, read.potentials
    return find_messages(guide.structure, read.program, *known)[0].potentials


def decoded(y, bernoulli):
    """Vectors of eight dimensions behind a network."""
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((8, 10)) / 2, rng.standard_normal((10, 12))
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
        out = jnp.tanh(x @ first) @ second
        fn = dist.Bernoulli(logits=out) if bernoulli else dist.Normal(out, 0.5)
        numpyro.sample("y", fn.to_event(1), obs=y)


@pytest.mark.parametrize(
    "bernoulli", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_networks_of_many_dimensions_are_seen_through_draws(bernoulli):
    """The bound is one, not that of the draws, and beats a posterior that is none."""
    y = 1.0 * (RNG.random((6, 12)) < 0.5)
    guide = ns.AutoSVAE(decoded, cubature=ns.Samples(32))
    assert guide.convergence({}, y, bernoulli)["x"].residual <= 1

    def silent(y, bernoulli):
        zeros = jnp.zeros((len(y), 8))
        return {"x": ns.GaussianPotential(zeros, zeros)}

    losses = []
    for own in (guide, ns.AutoSVAE(decoded, silent)):
        loss = ns.SVAE_ELBO(num_particles=200).loss
        losses.append([loss(k, {}, decoded, own, y, bernoulli) for k in KEYS])
    assert losses[0][0] != losses[0][1]
    evidence = importance_evidence(y, bernoulli)
    assert evidence < np.mean(losses[0]) < np.mean(losses[1]) - 5.0


KEYS = random.split(KEY)


def importance_evidence(y, bernoulli):
    """An estimate of the log evidence from below, with its sign changed."""
    guide = ns.AutoSVAE(decoded, cubature=ns.Samples(32))
    given = (y, bernoulli)
    guide.posterior_local({}, *given)
    fit = read_fit(decoded, guide, {}, given, {})
    return -jnp.sum(conditional_likelihood(fit, KEY, {}, 500))


def test_missing_steps_say_nothing(fitted):
    guide, params, _ = fitted
    mask = jnp.asarray(SEEN)
    missing = jnp.where(mask[..., None], COUNTS, jnp.nan)
    other = jnp.where(mask[..., None], COUNTS, 7.0)
    found = [
        guide.posterior_local(params, y, poisson, mask)["x"].mean
        for y in (missing, other)
    ]
    assert np.all(np.isfinite(found[0]))
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.slow
def test_filter_of_what_is_gaussian_is_exact(x64):
    guide = ns.AutoSVAE(system)
    svi = make_svi(system, guide)
    params = svi.get_params(svi.init(KEY, COUNTS, spread))
    state = ns.filter(system, guide, params, COUNTS[:, :3], spread)
    state = state.update(y=COUNTS[:, 3]).update(y=COUNTS[:, 4])
    expected = guide.posterior_local(params, COUNTS, spread)["x"]
    belief = state.marginals["x"]
    np.testing.assert_allclose(belief.mean, expected.mean[:, -1], atol=1e-8)
    covariance = expected.covariance[:, -1]
    np.testing.assert_allclose(belief.covariance_matrix, covariance, atol=1e-8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:shape requires ndarray")
def test_a_scan_is_the_same(x64):
    found = {}
    for model in (system, in_steps):
        svi = make_svi(model, ns.AutoSVAE(model))
        state = svi.init(KEY, COUNTS)
        found[model] = svi.evaluate(state, COUNTS)
    np.testing.assert_allclose(found[in_steps], found[system], rtol=1e-9)


def test_scales_of_subsamples_and_of_likelihoods(x64):
    """Data that count twice are data that are there twice."""

    def model(y, copies):
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
            for copy in range(copies):
                with numpyro.handlers.scale(scale=2.0 / copies):
                    fn = poisson(x @ LOADING).to_event(1)
                    numpyro.sample(f"y{copy}", fn, obs=y)

    losses = []
    for copies in (1, 2):
        guide = ns.AutoSVAE(model)
        losses.append(ns.SVAE_ELBO().loss(KEY, {}, model, guide, COUNTS[0], copies))
    np.testing.assert_allclose(*losses, rtol=1e-10)


def test_more_than_four_dimensions_are_evaluated_at_samples():
    def model(y):
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(jnp.zeros(6), 1.0).to_event(1))
            fn = poisson(x @ jnp.resize(jnp.asarray(LOADING), (6, P))).to_event(1)
            numpyro.sample("y", fn, obs=y)

    guide = ns.AutoSVAE(model)
    loss = ns.SVAE_ELBO(num_particles=10).loss
    losses = [
        float(loss(key, {}, model, guide, COUNTS[0])) for key in random.split(KEY)
    ]
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 5.0


# what is refused


def error_of(model, *args):
    with pytest.raises(ValueError) as caught:
        make_svi(model, ns.AutoSVAE(model)).init(KEY, *args)
    return str(caught.value)


def test_likelihoods_that_see_several_steps_together():
    def smeared(y):
        eye = jnp.eye(D)
        with numpyro.plate("data", N):
            chain = ns.LinearGaussianChain(jnp.zeros(D), eye, eye, eye, num_steps=T)
            x = numpyro.sample("x", chain)
            fn = poisson(jnp.cumsum(x, -2) @ LOADING)
            numpyro.sample("y", fn.to_event(2), obs=y)

    message = error_of(smeared, COUNTS)
    for part in ("'x'", "'y'", "several positions", "GaussianPotential"):
        assert part in message


def test_likelihoods_of_vectors_that_are_inferred_jointly():
    def coupled(y):
        with numpyro.plate("data", N):
            a = numpyro.sample("a", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
            b = numpyro.sample("b", dist.Normal(a, 1.0).to_event(1))
            numpyro.sample("y", poisson((a + b) @ LOADING).to_event(1), obs=y)

    message = error_of(coupled, COUNTS[:, 0])
    for part in ("'a'", "'b'", "'y'", "one site", "GaussianPotential"):
        assert part in message


def test_subsamples_estimate_the_bound(x64):
    """The mean over batches that are apart is the bound of all data."""
    y = jnp.asarray(RNG.poisson(1.5, (6, P)))

    def vectors(size):
        with numpyro.plate("data", len(y), subsample_size=size) as index:
            x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
            seen = poisson(x @ LOADING).to_event(1)
            numpyro.sample("y", seen, obs=y[index])

    def loss(index):
        guide = ns.AutoSVAE(vectors)
        with handlers.substitute(data={"data": index}):
            return ns.SVAE_ELBO().loss(KEY, {}, vectors, guide, len(index))

    parts = [loss(jnp.arange(3 * k, 3 * k + 3)) for k in range(2)]
    np.testing.assert_allclose(np.mean(parts), loss(jnp.arange(6)), rtol=1e-6)
