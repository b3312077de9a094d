# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Something known beside something learnt in one Gaussian factor.

Programs are compared with others of which the data have been moved or scaled by what is
known, or with the closed form of their bound at a given posterior.
"""

from functools import partial

import jax
from jax.nn import logsumexp
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
import pytest

import numpyro_svae as ns
from numpyro_svae.families import RegressionNatural
from tests.data import make_svi, steps

pytestmark = pytest.mark.x64

N, D, T = 7, 2, 5
RNG = np.random.default_rng(0)
Y, SHIFT = RNG.normal(1.0, 1.5, (2, N, D))
WEIGHT = RNG.uniform(0.3, 3.0, N)
LOADING = np.array([[1.0, 0.4], [-0.7, 0.9]])
PATH = np.cumsum(RNG.normal(0.4, 1.0, (N, T, D)), 1)
INPUTS = RNG.standard_normal((N, T, 3))
MEANS = np.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]])


def prior():
    return ns.NormalInverseWishart(jnp.ones(D), 0.5, 5.0, 2.0 * jnp.eye(D))


def niw():
    return ns.sample("pair", prior())


def given_niw():
    """A posterior that is not the prior."""
    scale = jnp.array([[2.0, 0.3], [0.3, 1.0]])
    return ns.NormalInverseWishart(jnp.array([0.7, -0.2]), 3.0, 9.0, scale)


def moved(model, *args, **options):
    """The loss, and natural parameters after one whole natural step."""
    guide = ns.AutoSVAE(model, num_starts=1, **options)
    params, losses = steps(make_svi(model, guide), 1, *args)
    return losses[0], params


def assert_alike(found, expected, more=0.0):
    """The same step, from losses that differ by a constant."""
    np.testing.assert_allclose(found[0], expected[0] + more, rtol=1e-9)
    assert found[1].keys() == expected[1].keys()
    for pair in zip(*map(jax.tree.leaves, (found[1], expected[1]))):
        np.testing.assert_allclose(*pair, rtol=1e-8, atol=1e-8)


# offsets: of data, of labels' data, of latent vectors


def mean(y, shift):
    mu, cov = niw()
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.MultivariateNormal(mu + shift, cov), obs=y)


def mean_apart(y, shift):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
    noise = numpyro.sample("noise", dist.Gamma(2.0, 1.0).expand([D]).to_event(1))
    with numpyro.plate("data", N):
        seen = dist.Normal(shift + mu, noise**-0.5).to_event(1)
        numpyro.sample("y", seen, obs=y)


def components(y, shift):
    with numpyro.plate("components", 2):
        mu, cov = niw()
    with numpyro.plate("data", N):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
        seen = dist.MultivariateNormal(mu[z] + shift, cov[z])
        numpyro.sample("y", seen, obs=y)


def vectors(y, shift):
    mu, cov = niw()
    with numpyro.plate("data", N):
        x = numpyro.sample("x", dist.MultivariateNormal(mu + shift, cov))
        seen = dist.MultivariateNormal(x @ LOADING.T, jnp.eye(D))
        numpyro.sample("y", seen, obs=y)


def given_components():
    loc = np.array([[[0.0], [0.0]], [[2.0], [1.0]]])
    scale = np.broadcast_to(2.0 * np.eye(D), (2, D, D))
    standard = loc, 2.0 * np.ones((2, 1, 1)), scale, 6.0 * np.ones(2)
    return RegressionNatural.from_standard(*map(jnp.asarray, standard))


@pytest.mark.parametrize(
    ("model", "start", "shown"),
    [
        (mean, given_niw, SHIFT),
        (mean_apart, None, SHIFT),
        (components, given_components, SHIFT),
        (vectors, given_niw, SHIFT @ LOADING.T),
    ],
    ids=["mean", "independent", "components", "latent"],
)
def test_an_offset_moves_what_it_is_added_to(model, start, shown):
    init = {} if start is None else {"pair": start()}
    expected = moved(model, Y - shown, np.zeros_like(SHIFT), init=init)
    assert_alike(moved(model, Y, SHIFT, init=init), expected)


def test_an_offset_that_was_zero_when_the_program_was_read_counts_later():
    guide = ns.AutoSVAE(mean, init={"pair": given_niw()})
    svi = make_svi(mean, guide)
    state = svi.init(jax.random.PRNGKey(0), Y - SHIFT, np.zeros_like(SHIFT))
    expected = svi.evaluate(state, Y - SHIFT, np.zeros_like(SHIFT))
    found = svi.evaluate(state, Y, SHIFT)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# known weights of the covariance


def weighted(y):
    mu, cov = niw()
    with numpyro.plate("data", N):
        seen = dist.MultivariateNormal(mu, cov / WEIGHT[:, None, None])
        numpyro.sample("y", seen, obs=y)


def whitened(y):
    weight, cov = niw()
    with numpyro.plate("data", N):
        root = np.sqrt(WEIGHT)[:, None]
        numpyro.sample("y", dist.MultivariateNormal(weight * root, cov), obs=root * y)


def test_a_known_weight_divides_the_covariance():
    init = {"pair": given_niw()}
    expected = moved(whitened, Y, init=init)
    stretch = -0.5 * D * np.sum(np.log(WEIGHT))
    assert_alike(moved(weighted, Y, init=init), expected, stretch)


def test_a_known_weight_divides_entries_that_are_seen():
    seen = RNG.random((N, D)) < 0.6

    def model(y, scaled):
        noise = numpyro.sample("noise", dist.Gamma(2.0, 1.0).expand([D]).to_event(1))
        root = np.sqrt(WEIGHT)[:, None]
        with numpyro.plate("data", N):
            scale = noise**-0.5 / root if scaled else noise**-0.5
            y = y if scaled else y * root
            fn = dist.Normal(jnp.zeros((N, D)), scale).mask(seen).to_event(1)
            numpyro.sample("y", fn, obs=y)

    stretch = -0.5 * np.sum(np.log(WEIGHT)[:, None] * seen)
    assert_alike(moved(model, Y, True), moved(model, Y, False), stretch)


# maps of latent vectors and paths


def loadings(y):
    mu, cov = niw()
    with numpyro.plate("data", N):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D)))
        seen = dist.MultivariateNormal(mu + x @ LOADING.T, cov)
        numpyro.sample("y", seen, obs=y)


def test_a_known_loading_beside_a_learnt_mean():
    """Probabilistic principal components at a given posterior of mean and noise."""
    loc, tril, scale, df = given_niw().natural_parameters.to_standard()
    noise = scale @ scale.T / df
    whole = LOADING @ LOADING.T + noise
    seen = dist.MultivariateNormal(loc[:, 0], whole).log_prob(Y)
    gap = np.linalg.slogdet(noise)[1] - given_log_det() - D / tril[0, 0] ** 2
    divergence = kl_divergence(given_niw(), prior())
    bound = jnp.sum(seen) + 0.5 * N * gap - divergence
    loss, params = moved(loadings, Y, init={"pair": given_niw()})
    np.testing.assert_allclose(loss, -bound, rtol=1e-9)
    # the statistics of what is left of the data
    gain = np.linalg.solve(whole, LOADING).T
    left = Y - (Y - loc[:, 0]) @ gain.T @ LOADING.T
    spread = LOADING @ (np.eye(D) - gain @ LOADING) @ LOADING.T
    natural = prior().natural_parameters
    found = params["pair_auto_natural"]
    vv = natural.vv + left.T @ left + N * spread
    np.testing.assert_allclose(found.vv, vv, rtol=1e-8)
    vu = natural.vu[:, 0] + left.sum(0)
    np.testing.assert_allclose(found.vu[:, 0], vu, rtol=1e-8)


def given_log_det():
    return given_niw().natural_parameters.moments().log_det


def drift(y):
    slope, cov = niw()
    matrix = jnp.concatenate([jnp.eye(D), slope[:, None]], -1)
    with numpyro.plate("sequences", N):
        chain = ns.LinearGaussianChain(
            jnp.zeros(D), jnp.eye(D), matrix, cov, inputs=jnp.ones((T - 1, 1))
        )
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Normal(x, 0.3).to_event(2), obs=y)


def drift_scanned(y):
    slope, cov = niw()
    seen = partial(dist.Normal, scale=0.3)
    with numpyro.plate("sequences", N):
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D)))
        numpyro.sample("y0", seen(x).to_event(1), obs=y[:, 0])

    def step(x, y):
        with numpyro.plate("sequences", N):
            x = numpyro.sample("x", dist.MultivariateNormal(x + slope, cov))
            numpyro.sample("y", seen(x).to_event(1), obs=y)
        return x, None

    scan(step, x, jnp.swapaxes(y[:, 1:], 0, 1))


def drift_observed(y):
    slope, cov = niw()
    matrix = jnp.concatenate([jnp.eye(D), slope[:, None]], -1)
    with numpyro.plate("sequences", N):
        chain = ns.LinearGaussianChain(
            jnp.zeros(D), jnp.eye(D), matrix, cov, inputs=jnp.ones((T - 1, 1))
        )
        numpyro.sample("x", chain, obs=y)


def test_a_random_walk_with_a_learnt_drift_that_is_seen():
    """Its steps are draws of one Gaussian."""
    _, params = moved(drift_observed, PATH)
    change = np.diff(PATH, axis=1).reshape(-1, D)
    found, own = params["pair_auto_natural"], prior().natural_parameters
    np.testing.assert_allclose(found.vv, own.vv + change.T @ change, rtol=1e-8)
    np.testing.assert_allclose(found.vu[:, 0], own.vu[:, 0] + change.sum(0), 1e-8)
    np.testing.assert_allclose(found.uu[0, 0], own.uu[0, 0] + len(change), 1e-8)


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of a scan
def test_a_random_walk_with_a_learnt_drift():
    """The bound at a given posterior, and the same step for both spellings."""
    init = {"pair": given_niw()}
    loss, params = moved(drift, PATH, init=init)
    loc, tril, scale, df = given_niw().natural_parameters.to_standard()
    noise = scale @ scale.T / df
    known = ns.LinearGaussianChain(
        jnp.zeros(D), jnp.eye(D), jnp.concatenate([jnp.eye(D), loc], -1), noise,
        inputs=jnp.ones((T - 1, 1)),
    )  # fmt: skip
    seen = known.condition(ns.GaussianPotential.from_loc_scale(PATH, 0.3))[1]
    said = ns.GaussianPotential.from_loc_scale(PATH, 0.3)
    constant = dist.Normal(PATH, 0.3).log_prob(PATH).sum((-1, -2))
    constant = constant - said.expected(PATH, jnp.zeros((D, D))).sum(-1)
    gap = np.linalg.slogdet(noise)[1] - given_log_det() - D / tril[0, 0] ** 2
    bound = jnp.sum(seen + constant) + 0.5 * N * (T - 1) * gap
    bound = bound - kl_divergence(given_niw(), prior())
    np.testing.assert_allclose(loss, -bound, rtol=1e-9)
    assert_alike(moved(drift_scanned, PATH, init=init), (loss, params))


def regression():
    eye = jnp.eye(3)
    prior = ns.MatrixNormalInverseWishart(jnp.zeros((D, 3)), eye, 5.0, jnp.eye(D))
    return ns.sample("pair", prior)


def level(y):
    weight, cov = regression()
    with numpyro.plate("sequences", N):
        eye = jnp.eye(D)
        chain = ns.LinearGaussianChain(jnp.zeros(D), eye, eye, 0.5 * eye, num_steps=T)
        x = numpyro.sample("x", chain)
        seen = dist.MultivariateNormal(x + INPUTS @ weight.T, cov).to_event(1)
        numpyro.sample("y", seen, obs=y)


def level_by_sites(y):
    weight, cov = regression()
    state = dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D))
    with numpyro.plate("sequences", N):
        for t in range(T):
            x = numpyro.sample(f"x{t}", state)
            state = dist.MultivariateNormal(x, 0.5 * jnp.eye(D))
            seen = dist.MultivariateNormal(x + INPUTS[:, t] @ weight.T, cov)
            numpyro.sample(f"y{t}", seen, obs=y[:, t])


def test_a_local_level_with_a_regression():
    """As one site for each step, which a graph eliminates, and as a chain."""
    loc = 0.3 * INPUTS[0, :D]
    standard = loc, 2.0 * np.eye(3), 2.0 * np.eye(D), np.array(8.0)
    natural = RegressionNatural.from_standard(*map(jnp.asarray, standard))
    init = {"pair": natural}
    assert_alike(moved(level, PATH, init=init), moved(level_by_sites, PATH, init=init))


def test_known_means_that_a_label_picks_beside_a_learnt_one():
    def model(y):
        mu, cov = niw()
        with numpyro.plate("data", N):
            z = numpyro.sample("z", dist.Categorical(jnp.full(3, 1 / 3)))
            seen = dist.MultivariateNormal(mu + jnp.asarray(MEANS)[z], cov)
            numpyro.sample("y", seen, obs=y)

    loss, params = moved(model, Y, init={"pair": given_niw()})
    loc, tril, scale, df = given_niw().natural_parameters.to_standard()
    noise = scale @ scale.T / df
    gap = np.linalg.slogdet(noise)[1] - given_log_det() - D / tril[0, 0] ** 2
    left = Y[:, None] - MEANS
    logits = dist.MultivariateNormal(loc[:, 0], noise).log_prob(left) + 0.5 * gap
    bound = jnp.sum(logsumexp(logits - np.log(3.0), -1))
    bound = bound - kl_divergence(given_niw(), prior())
    np.testing.assert_allclose(loss, -bound, rtol=1e-9)
    probs = jax.nn.softmax(logits)
    vu = prior().natural_parameters.vu[:, 0] + jnp.einsum("nk,nkd->d", probs, left)
    np.testing.assert_allclose(params["pair_auto_natural"].vu[:, 0], vu, rtol=1e-8)


# a weight on the right of a vector


@pytest.mark.parametrize("columns", [3, D])
def test_a_weight_on_the_right_is_the_transpose_of_one_on_the_left(columns):
    values = RNG.standard_normal((N, columns))
    loc = RNG.standard_normal((columns, D))
    scale = RNG.uniform(0.5, 2.0, (columns, D))

    def model(y, right):
        shown = (loc, scale) if right else (loc.T, scale.T)
        weight = numpyro.sample("weight", dist.Normal(*shown).to_event(2))
        noise = numpyro.sample("noise", dist.Gamma(2.0, 1.0).expand([D]).to_event(1))
        with numpyro.plate("data", N):
            seen = values @ weight if right else values @ weight.T
            numpyro.sample("y", dist.Normal(seen, noise**-0.5).to_event(1), obs=y)

    assert_alike(moved(model, Y, True), moved(model, Y, False))
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 1, Y, True)
    posterior = guide.get_posterior(params)["weight"]
    assert posterior.event_shape == (columns, D)
    draws = posterior.sample(jax.random.PRNGKey(0), (4000,))
    np.testing.assert_allclose(draws.mean(0), posterior.mean, atol=0.1)


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of a scan
def test_independent_priors_inside_a_scan():
    def blocks():
        matrix = dist.Normal(0.5 * jnp.eye(D), 0.3).to_event(2)
        gamma = dist.Gamma(3.0, 1.0).expand([D]).to_event(1)
        weight = numpyro.sample("weight", matrix)
        return weight, numpyro.sample("noise", gamma) ** -0.5

    def one_site(y):
        weight, scale = blocks()
        with numpyro.plate("sequences", N):
            cov = scale[:, None] ** 2 * jnp.eye(D)
            chain = ns.LinearGaussianChain(
                jnp.zeros(D), jnp.eye(D), weight, cov, num_steps=T
            )
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(x, 0.3).to_event(2), obs=y)

    def scanned(y):
        weight, scale = blocks()
        with numpyro.plate("sequences", N):
            x = numpyro.sample("x0", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
            numpyro.sample("y0", dist.Normal(x, 0.3).to_event(1), obs=y[:, 0])

        def step(x, y):
            with numpyro.plate("sequences", N):
                loc = x @ weight.T
                x = numpyro.sample("x", dist.Normal(loc, scale).to_event(1))
                numpyro.sample("y", dist.Normal(x, 0.3).to_event(1), obs=y)
            return x, None

        scan(step, x, jnp.swapaxes(y[:, 1:], 0, 1))

    init = {
        "weight": dist.Normal(0.6 * jnp.eye(D), 0.2).to_event(2),
        "noise": dist.Gamma(5.0 * jnp.ones(D), 2.0).to_event(1),
    }
    assert_alike(moved(scanned, PATH, init=init), moved(one_site, PATH, init=init))
