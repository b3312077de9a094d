# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The models of a newcomer that have time in them, against the truth.

They use public names alone. What is asked is what a user would ask: are the parameters
where the posterior says, is the score of new data that of the truth?
"""

from jax import random
import jax.numpy as jnp
from jax.scipy.special import gammainc
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.newcomer import deviations, fit, score

pytestmark = pytest.mark.slow


def test_hierarchical_series():
    """Each subject has a level that stays, and a path that comes and goes around it."""
    rng = np.random.default_rng(4)
    level, x = 3.0 + 1.5 * rng.standard_normal(30), np.zeros((30, 25))
    for t in range(1, 25):
        x[:, t] = 0.8 * x[:, t - 1] + 0.5 * rng.standard_normal(30)
    y = level[:, None] + x + 0.3 * rng.standard_normal(x.shape)

    def model(y):
        prior = ns.NormalInverseWishart(jnp.zeros(2), 0.1, 4.0, jnp.eye(2))
        start = ns.sample("start", prior)
        prior = ns.MatrixNormalInverseWishart(
            jnp.zeros((1, 1)), jnp.eye(1), 3.0, jnp.eye(1)
        )
        keep, noise = ns.sample("row", prior)
        stays, moves = jnp.diag(jnp.array([1.0, 0.0])), jnp.array([[0.0], [1.0]])
        step = stays + moves @ keep @ moves.T, moves @ noise @ moves.T
        with numpyro.plate("subjects", len(y)):
            chain = ns.LinearGaussianChain(*start, *step, num_steps=y.shape[1])
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(x.sum(-1), 0.3).to_event(1), obs=y)

    guide, params = fit(model, y, steps=30)
    posterior, path = guide.get_posterior(params), guide.posterior_local(params, y)["x"]
    row = deviations(posterior["row"], np.array([[0.8, 0.25]]))
    off = np.abs(path.mean[:, 0, 0] - level) / np.sqrt(path.covariance[:, 0, 0, 0])
    assert deviations(posterior["start"], 3.0)[0, 0] < 3
    assert np.all(row < 3)
    assert np.mean(off < 2) > 0.85
    assert np.corrcoef(path.mean[:, 0, 0], level)[0, 1] > 0.95


def test_poisson_counts():
    rng = np.random.default_rng(5)
    turn = 0.95 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    x = [rng.standard_normal((20, 2))]
    for _ in range(39):
        x.append(x[-1] @ turn.T + 0.3 * rng.standard_normal((20, 2)))
    rate = np.exp(np.stack(x, 1) @ (0.6 * rng.standard_normal((2, 10))) + 0.5)
    y = rng.poisson(rate)

    def model(y):
        loading = numpyro.param("loading", 0.3 * random.normal(random.key(3), (2, 10)))
        offset = numpyro.param("offset", jnp.log(y.mean((0, 1))))
        prior = ns.MatrixNormalInverseWishart(
            0.9 * jnp.eye(2), jnp.eye(2), 4.0, 0.1 * jnp.eye(2)
        )
        F, Q = ns.sample("dynamics", prior)
        with numpyro.plate("sequences", len(y)):
            chain = ns.LinearGaussianChain(
                jnp.zeros(2), jnp.eye(2), F, Q, num_steps=y.shape[1]
            )
            x = numpyro.sample("x", chain)
            rate = jnp.exp(x @ loading + offset)
            numpyro.sample("y", dist.Poisson(rate).to_event(2), obs=y)

    guide, params = fit(model, y, steps=80, rate=0.05)
    value = np.linalg.eigvals(guide.get_posterior(params)["dynamics"].mean[:, :2])[0]
    np.testing.assert_allclose(
        [abs(value), abs(np.angle(value))], [0.95, 0.3], atol=0.05
    )
    mean = (
        guide.posterior_local(params, y)["x"].mean @ params["loading"]
        + params["offset"]
    )
    assert np.corrcoef(np.ravel(mean), np.ravel(np.log(rate)))[0, 1] > 0.9


def matern(gap, length):
    """Steps of a Matern process of order 3/2 and its derivative, not cancelled."""
    pull, gap = jnp.sqrt(3.0) / length, gap[..., None, None]
    by_gap = jnp.array([[pull, 1.0], [-(pull**2), -pull]])
    step = jnp.exp(-pull * gap) * (jnp.eye(2) + gap * by_gap)
    s = 2 * pull * gap[..., 0, 0]
    place, decay = gammainc(3.0, s), jnp.exp(-s)
    both = 0.5 * pull * s**2 * decay
    speed = pull**2 * (place + 2 * s * decay)
    return step, jnp.stack(
        [jnp.stack([place, both], -1), jnp.stack([both, speed], -1)], -1
    )


def test_gaussian_process_at_irregular_times():
    rng = np.random.default_rng(6)
    times = np.sort(rng.uniform(0, 10, (8, 60)), -1)
    times[:, 30:] += 3.0
    gaps = np.sqrt(3) * np.abs(times[:, :, None] - times[:, None, :]) / 1.2
    kernel = (1 + gaps) * np.exp(-gaps)
    root = np.linalg.cholesky(kernel + 1e-9 * np.eye(60))
    truth = np.einsum("nij,nj->ni", root, rng.standard_normal((8, 60)))
    y = truth + 0.3 * rng.standard_normal(truth.shape)

    def model(times, y):
        positive = dist.constraints.positive
        length = numpyro.param("length", 0.5, constraint=positive)
        sigma = numpyro.param("sigma", 1.0, constraint=positive)
        A, Q = matern(jnp.diff(times), length)
        start = jnp.diag(jnp.array([1.0, 3.0 / length**2]))
        with numpyro.plate("series", len(y)):
            x = numpyro.sample("x", ns.LinearGaussianChain(jnp.zeros(2), start, A, Q))
            numpyro.sample("y", dist.Normal(x[..., 0], sigma).to_event(1), obs=y)

    guide, params = fit(model, times, y, steps=200, rate=0.05)
    np.testing.assert_allclose(
        [params["length"], params["sigma"]], [1.2, 0.3], rtol=0.25
    )
    gaps = np.sqrt(3) * np.abs(times[:, :, None] - times[:, None, :]) / params["length"]
    kernel = (1 + gaps) * np.exp(-gaps)
    dense = kernel @ np.linalg.solve(
        kernel + params["sigma"] ** 2 * np.eye(60), y[..., None]
    )
    found = guide.posterior_local(params, times, y)["x"].mean[..., 0]
    np.testing.assert_allclose(found, dense[..., 0], atol=2e-3)


def test_inputs_and_covariates():
    rng = np.random.default_rng(7)
    pushes, covariates = (
        rng.standard_normal((20, 29, 1)),
        rng.standard_normal((20, 30, 2)),
    )
    x = [rng.standard_normal((20, 1))]
    for t in range(29):
        x.append(0.8 * x[-1] + 0.5 * pushes[:, t] + 0.2 * rng.standard_normal((20, 1)))
    effect = np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
    loading = np.array([[1.0], [-1.0], [0.5]])
    y = np.stack(x, 1) @ loading.T + covariates @ effect.T
    y = y + 0.3 * rng.standard_normal(y.shape)

    def model(pushes, covariates, y):
        prior = ns.MatrixNormalInverseWishart(
            0.9 * jnp.eye(1, 2), jnp.eye(2), 3.0, 0.1 * jnp.eye(1)
        )
        F, Q = ns.sample("dynamics", prior)
        sensing = ns.MatrixNormalInverseWishart(
            jnp.zeros((3, 3)), 0.1 * jnp.eye(3), 5.0, 0.1 * jnp.eye(3)
        )
        C, R = ns.sample("sensing", sensing)
        with numpyro.plate("sequences", len(y)):
            chain = ns.LinearGaussianChain(
                jnp.zeros(1), jnp.eye(1), F, Q, inputs=pushes
            )
            x = numpyro.sample("x", chain)
            mean = jnp.concatenate([x, covariates], -1) @ C.T
            numpyro.sample("y", dist.MultivariateNormal(mean, R).to_event(1), obs=y)

    guide, params = fit(model, pushes, covariates, y)
    posterior = guide.get_posterior(params)
    sensing, dynamics = posterior["sensing"], posterior["dynamics"]
    assert np.all(
        deviations(sensing, np.c_[loading, effect, 0.09 * np.eye(3)])[:, 1:3] < 3.5
    )
    # The scale of the path is free: what a push does to the outputs is not.
    np.testing.assert_allclose(dynamics.mean[0, 0], 0.8, atol=0.04)
    np.testing.assert_allclose(
        sensing.mean[:, 0] * dynamics.mean[0, 1], 0.5 * loading[:, 0], atol=0.06
    )


def test_states_of_a_hidden_markov_model_are_chosen():
    rng = np.random.default_rng(10)
    means, rows = np.array([-2.0, 0.0, 2.0]), 0.05 + 0.85 * np.eye(3)
    z = [rng.integers(3, size=40)]
    for _ in range(39):
        z.append((rows[z[-1]].cumsum(-1) < rng.random((40, 1))).sum(-1))
    y = means[np.stack(z, 1)] + 0.6 * rng.standard_normal((40, 40))

    def model(y, states):
        initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(states)))
        with numpyro.plate("states", states):
            rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(states)))
            mean = numpyro.sample("mean", dist.Normal(0.0, 3.0))
            sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("sequences", len(y)):
            z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, y.shape[1]))
            numpyro.sample("y", dist.Normal(mean[z], sigma[z]).to_event(1), obs=y)

    # A state too many costs little: what is asked is who needs fewest to be as good.
    found = {}
    for states in (2, 3, 4):
        guide, params = fit(model, y[:20], states, steps=60, num_starts=1)
        found[states] = score(model, guide, params, y[20:], states)
    best = max(found.values(), key=np.mean)
    lost = {states: best - own for states, own in found.items()}
    errors = {states: np.std(own) / np.sqrt(len(own)) for states, own in lost.items()}
    as_good = [n for n, own in lost.items() if np.mean(own) <= 2 * errors[n]]
    assert min(as_good) == 3


def test_forecasts():
    rng = np.random.default_rng(12)
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    x = [2.0 * rng.standard_normal((30, 2))]
    for _ in range(39):
        x.append(x[-1] @ turn.T + 0.1 * rng.standard_normal((30, 2)))
    loading = rng.standard_normal((2, 3))
    y = np.stack(x, 1) @ loading
    y = y + 0.2 * rng.standard_normal(y.shape)

    def model(y):
        start = ns.sample(
            "init", ns.NormalInverseWishart(jnp.zeros(2), 1.0, 4.0, jnp.eye(2))
        )
        prior = ns.MatrixNormalInverseWishart(
            0.9 * jnp.eye(2), jnp.eye(2), 4.0, 0.1 * jnp.eye(2)
        )
        step = ns.sample("dynamics", prior)
        sensing = ns.MatrixNormalInverseWishart(
            jnp.zeros((3, 2)), 0.1 * jnp.eye(2), 5.0, 0.1 * jnp.eye(3)
        )
        C, R = ns.sample("sensing", sensing)
        with numpyro.plate("sequences", len(y)):
            x = numpyro.sample(
                "x", ns.LinearGaussianChain(*start, *step, num_steps=y.shape[1])
            )
            numpyro.sample("y", dist.MultivariateNormal(x @ C.T, R).to_event(1), obs=y)

    guide, params = fit(model, y[:, :30])
    future = y[:, 30:]
    given = model, guide, params, random.key(1), y[:, :30]
    draws = ns.forecast(*given, horizon=10, num_samples=300)["y"]
    assert abs(ns.coverage(draws, future, 0.9).mean() - 0.9) < 0.06
    # The truth knows parameters and the last state: its error is that of the noise.
    error = np.sqrt(np.mean((draws.mean(0) - future) ** 2))
    ahead = np.stack(
        [x[29] @ np.linalg.matrix_power(turn.T, h + 1) @ loading for h in range(10)], 1
    )
    assert error < 1.15 * np.sqrt(np.mean((ahead - future) ** 2))
