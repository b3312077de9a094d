# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Paths of which some parts have no noise, against dense Gaussians of their noise."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
from numpyro.infer import Predictive, Trace_ELBO
import pytest
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests.data import make_svi, steps

pytestmark = [
    pytest.mark.x64,
    # NumPyro's scan looks at the shapes of parameters that are pytrees
    pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning"),
]

N, T = 2, 5
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, T, 1))
C, R = np.array([[1.0, 0.3]]), 0.3
MEAN, COV = np.array([0.4, -0.2]), np.array([[1.0, 0.2], [0.2, 0.8]])
TREND, COMPANION = (
    np.array([[1.0, 1.0], [0.0, 1.0]]),
    np.array([[0.7, 0.2], [1.0, 0.0]]),
)
LEVEL, DRIVEN = np.diag([0.5, 0.0]), np.array([[0.5], [1.0]])
ROW = np.array([[0.5, 0.2]])


def seen(x, y):
    numpyro.sample("y", dist.Normal(x @ C.T, R).to_event(2), obs=y)


def paths(mean, cov, matrix, noise):
    """Means and covariance of a path, and the map from its noise, first state first."""
    size, found = len(mean), [np.eye(len(mean), T * len(mean))]
    means = [mean]
    for t in range(1, T):
        own = np.eye(size, T * size, t * size)
        found.append(matrix @ found[-1] + own)
        means.append(matrix @ means[-1])
    maps = np.concatenate(found)
    return np.concatenate(means), maps, block_diag(cov, *[noise] * (T - 1))


def evidence(y, mean, cov, matrix, noise):
    centre, maps, joint = paths(mean, cov, matrix, noise)
    shown = np.kron(np.eye(T), C)
    total = shown @ maps @ joint @ maps.T @ shown.T + R**2 * np.eye(T)
    return sum(
        multivariate_normal.logpdf(row.ravel(), shown @ centre, total) for row in y
    )


@pytest.mark.parametrize(
    ("cov", "matrix", "noise"),
    [
        (COV, COMPANION, LEVEL),
        (np.diag([1.0, 0.0]), TREND, LEVEL),
        (COV, np.eye(2), np.zeros((2, 2))),
        (np.zeros((2, 2)), COMPANION, LEVEL),
        (COV, TREND, 0.3 * DRIVEN @ DRIVEN.T),
        (COV, np.diag([0.5, 0.0]), LEVEL),
    ],
    ids=["companion", "trend", "static", "known-start", "driven", "dropped"],
)
def test_the_bound_of_known_dynamics_is_the_evidence(cov, matrix, noise):
    def model(y):
        with numpyro.plate("data", N):
            chain = ns.LinearGaussianChain(MEAN, cov, matrix, noise, num_steps=T)
            seen(numpyro.sample("x", chain), y)

    guide = ns.AutoSVAE(model)
    _, losses = steps(make_svi(model, guide), 1, Y)
    expected = evidence(Y, MEAN, cov, matrix, noise)
    np.testing.assert_allclose(-losses[0], expected, rtol=1e-11)


# a learnt row


def row_prior(mean=ROW, df=4.0):
    return ns.MatrixNormalInverseWishart(mean, 2.0 * jnp.eye(2), df, jnp.eye(1))


def companion(row, variance):
    matrix = jnp.concatenate([row, jnp.eye(1, 2)])
    return matrix, variance * jnp.diag(jnp.array([1.0, 0.0]))


def one_site(y):
    row, variance = ns.sample("row", row_prior())
    with numpyro.plate("data", N):
        steps = companion(row, variance[0, 0])
        seen(
            numpyro.sample("x", ns.LinearGaussianChain(MEAN, COV, *steps, num_steps=T)),
            y,
        )


def scanned(y):
    row, variance = ns.sample("row", row_prior())
    matrix, noise = companion(row, variance[0, 0])

    def observe(name, x, y):
        numpyro.sample(name, dist.Normal(x @ C.T, R).to_event(1), obs=y)

    def step(x, y):
        with numpyro.plate("data", N):
            scale = jnp.sqrt(jnp.diagonal(noise))
            state = dist.Normal(x @ matrix.T, scale, validate_args=False).to_event(1)
            x = numpyro.sample("x", state)
            observe("y", x, y)
        return x, None

    with numpyro.plate("data", N):
        x = numpyro.sample("x0", dist.MultivariateNormal(MEAN, COV))
        observe("y0", x, y[:, 0])
    scan(step, x, jnp.moveaxis(y[:, 1:], 1, 0))


def textbook(y, given):
    """The bound and the statistics at a posterior of the row, from dense Gaussians.

    The expected log density of a path is a Gaussian of its noise, a quadratic form of
    the states before the last one, and a constant.
    """
    natural = given.natural_parameters
    weight, variance, excess, log_det = natural.moments()
    variance, excess = np.asarray(variance)[0, 0], np.asarray(excess)
    matrix, noise = map(np.asarray, companion(weight, variance))
    noisy = [*range(2), *range(2, 2 * T, 2)]
    centre, maps, joint = paths(MEAN, COV, matrix, noise)
    maps, joint = maps[:, noisy], joint[np.ix_(noisy, noisy)]
    shown = np.kron(np.eye(T), C)
    before = block_diag(*[excess] * (T - 1), np.zeros((2, 2)))
    prior = np.linalg.solve(joint, np.eye(len(joint)))
    precision = prior + maps.T @ (before + shown.T @ shown / R**2) @ maps
    covariance = np.linalg.solve(precision, np.eye(len(precision)))
    constant = (T - 1) * 0.5 * (np.log(variance) - float(log_det))
    bound, total = -float(kl_divergence(given, row_prior())), 0.0
    for row in y:
        pull = shown.T @ (row.ravel() - shown @ centre) / R**2 - before @ centre
        mean = covariance @ maps.T @ pull
        fit = row.ravel() - shown @ centre
        bound += constant + 0.5 * np.linalg.slogdet(prior)[1]
        bound += 0.5 * (mean @ maps.T @ pull - np.linalg.slogdet(precision)[1])
        bound -= 0.5 * (fit @ fit / R**2 + centre @ before @ centre)
        bound -= 0.5 * T * np.log(2 * np.pi * R**2)
        x = centre + maps @ mean
        second = np.outer(x, x) + maps @ covariance @ maps.T
        total = total + sum(
            second[2 * t : 2 * t + 4, 2 * t : 2 * t + 4] for t in range(T - 1)
        )
    return bound, total[2:3, 2:3], total[2:3, :2], total[:2, :2]


@pytest.mark.parametrize("model", [one_site, scanned], ids=["one-site", "scan"])
def test_a_learnt_row_of_a_companion_form_is_the_textbook(model):
    given = row_prior(np.array([[0.3, -0.1]]), 9.0)
    guide = ns.AutoSVAE(model, init={"row": given})
    svi = make_svi(model, guide)
    state = svi.init(random.PRNGKey(0), Y)
    after, loss = svi.update(state, Y)
    bound, vv, vu, uu = textbook(Y, given)
    np.testing.assert_allclose(-loss, bound, rtol=1e-10)
    prior = row_prior().natural_parameters
    natural = next(iter(svi.get_params(after).values()))
    np.testing.assert_allclose(natural.vv - prior.vv, vv, rtol=1e-9)
    np.testing.assert_allclose(natural.vu - prior.vu, vu, rtol=1e-9)
    np.testing.assert_allclose(natural.uu - prior.uu, uu, rtol=1e-9)
    np.testing.assert_allclose(natural.df - prior.df, N * (T - 1), rtol=1e-9)


# parameters, other densities, and what is done with a posterior


def structural(y):
    """Level, slope and a coefficient that do not move but for the level."""
    sd = numpyro.param("sd", 0.6, constraint=dist.constraints.positive)
    pull = numpyro.param("pull", 0.9)
    matrix = TREND * jnp.array([[1.0, pull], [1.0, 1.0]])
    noise = sd**2 * jnp.diag(jnp.array([1.0, 0.0]))
    with numpyro.plate("data", N):
        chain = ns.LinearGaussianChain(MEAN, COV, matrix, noise, num_steps=T)
        seen(numpyro.sample("x", chain), y)


def test_gradients_of_parameters_are_those_of_the_evidence():
    guide = ns.AutoSVAE(structural)
    svi = make_svi(structural, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), Y))

    def loss(sd, pull):
        own = params | {"sd": sd, "pull": pull}
        return ns.SVAE_ELBO().loss(random.PRNGKey(0), own, structural, guide, Y)

    found = jax.grad(loss, (0, 1))(0.6, 0.9)

    def exact(sd, pull):
        matrix = TREND * np.array([[1.0, pull], [1.0, 1.0]])
        return -evidence(Y, MEAN, COV, matrix, np.diag([sd**2, 0.0]))

    step = 1e-5
    expected = (
        (exact(0.6 + step, 0.9) - exact(0.6 - step, 0.9)) / (2 * step),
        (exact(0.6, 0.9 + step) - exact(0.6, 0.9 - step)) / (2 * step),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_densities_are_those_of_the_noise():
    guide = ns.AutoSVAE(structural)
    svi = make_svi(structural, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), Y))
    expected = ns.SVAE_ELBO().loss(random.PRNGKey(0), params, structural, guide, Y)
    run = Trace_ELBO(num_particles=1).loss  # the weights of an exact guide are equal
    found = [run(random.PRNGKey(k), params, structural, guide, Y) for k in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    chain = ns.LinearGaussianChain(MEAN, COV, TREND, LEVEL, num_steps=T)
    path = chain.sample(random.PRNGKey(1))
    assert np.isfinite(chain.log_prob(path))
    assert chain.log_prob(path.at[2, 1].add(0.1)) == -np.inf


def test_likelihoods_of_data_need_the_density_of_a_path():
    """There is one where entries have no noise, and none for other directions."""

    def score(noise):
        def model(y):
            with numpyro.plate("data", N):
                chain = ns.LinearGaussianChain(MEAN, COV, TREND, noise, num_steps=T)
                seen(numpyro.sample("x", chain), y)

        args = model, ns.AutoSVAE(model), {}, random.PRNGKey(0), Y
        return ns.log_likelihood(*args, num_particles=1)

    found = score(LEVEL)
    expected = evidence(Y, MEAN, COV, TREND, LEVEL)
    np.testing.assert_allclose(found.value.sum(), expected, rtol=1e-10)
    with pytest.raises(ValueError, match="noise is singular in directions"):
        score(0.3 * DRIVEN @ DRIVEN.T)


def test_draws_and_forecasts_move_without_noise():
    guide = ns.AutoSVAE(scanned)
    svi = make_svi(scanned, guide, 0.5)
    params = svi.get_params(svi.init(random.PRNGKey(0), Y))
    given = partial(ns.forecast, scanned, guide, params, random.PRNGKey(1), Y)
    future = given(horizon=3, num_samples=20)["x"]
    np.testing.assert_allclose(future[:, 1:, :, 1], future[:, :-1, :, 0], atol=1e-9)
    drawn = Predictive(guide, params=params, num_samples=3)(random.PRNGKey(2), Y)["x"]
    np.testing.assert_allclose(drawn[:, 1:, :, 1], drawn[:, :-1, :, 0], atol=1e-9)


def test_what_has_no_noise_must_be_the_same_everywhere():
    noise = np.stack([LEVEL, *[COV] * (T - 2)])

    def model(y):
        with numpyro.plate("data", N):
            chain = ns.LinearGaussianChain(MEAN, COV, COMPANION, noise, num_steps=T)
            seen(numpyro.sample("x", chain), y)

    guide = ns.AutoSVAE(model)
    with pytest.raises(ValueError, match=r"'x' .*transition_cov whose directions"):
        make_svi(model, guide).init(random.PRNGKey(0), Y)


def test_an_observed_path_has_noise_everywhere():
    def model(path):
        steps = companion(*ns.sample("row", row_prior()))
        chain = ns.LinearGaussianChain(MEAN, COV, *steps, num_steps=T)
        numpyro.sample("x", chain, obs=path)

    guide = ns.AutoSVAE(model)
    with pytest.raises(ValueError, match=r"'x' .*observed path with a transition_cov"):
        make_svi(model, guide).init(random.PRNGKey(0), jnp.ones((T, 2)))
