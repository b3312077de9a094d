# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forecasts against closed forms, for every kind of chain."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
import pytest
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests.data import clusters, make_svi, sequences, steps
from tests.forecasting.dense import dense
from tests.models import (
    known_lds,
    known_mixture,
    lds_recognition,
    lds_svae,
    linear_lds,
    observed_lds,
)
from tests.switching import (
    LOC,
    NOISE,
    ROWS,
    SPREAD,
    STEP_NOISE,
    TURNS,
    known_hmm,
    known_slds,
)

DRAWS, HORIZON = 20000, 3
KEY = random.PRNGKey(3)
# What NumPyro's handlers do with scan.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")


def assert_moments(draws, mean, covariance):
    """Draws ``(S, n)`` have these moments, within five standard errors."""
    draws = np.asarray(draws).reshape(len(draws), -1)
    spread = np.sqrt(np.diag(covariance))
    away = (draws.mean(0) - mean) / (spread / np.sqrt(len(draws)))
    assert np.abs(away).max() < 5
    found = np.cov(draws, rowvar=False).reshape(covariance.shape)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)) / len(draws))
    assert (np.abs(found - covariance) / scale).max() < 5 * np.sqrt(2)


def dense_lds(actions):
    """The model ``known_lds``, with the actions of one sequence."""
    weight = np.array([[0.9, -0.2, 0.5], [0.3, 0.8, -0.4]])
    return dense(
        (np.array([0.5, -0.5]), 1.5 * np.eye(2)),
        np.asarray(actions) @ weight[:, 2:].T,
        weight[:, :2],
        np.array([[0.3, 0.1], [0.1, 0.2]]),
        np.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.2]]),
        np.full(3, 0.1),
        0.4 * np.eye(3),
    )


def scanned_lds(y=None, actions=None, *, num_steps=None):
    """The model ``known_lds``, with scan and its arguments in the order of time."""
    num_steps = len(y) if num_steps is None else num_steps
    weight = jnp.array([[0.9, -0.2, 0.5], [0.3, 0.8, -0.4]])
    loading = jnp.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.2]])

    def see(name, x, y):
        seen = dist.MultivariateNormal(x @ loading.T + 0.1, 0.4 * jnp.eye(3))
        numpyro.sample(name, seen, obs=y)

    noise = jnp.array([[0.3, 0.1], [0.1, 0.2]])
    with numpyro.plate("sequences", actions.shape[1]):
        first = dist.MultivariateNormal(jnp.array([0.5, -0.5]), 1.5 * jnp.eye(2))
        x = numpyro.sample("x_first", first)
        see("y_first", x, None if y is None else y[0])

    def step(x, given):
        y, action = given
        with numpyro.plate("sequences", actions.shape[1]):
            loc = jnp.concatenate([x, action], -1) @ weight.T
            x = numpyro.sample("x", dist.MultivariateNormal(loc, noise))
            see("y", x, y)
        return x, None

    scan(step, x, (None if y is None else y[1:], actions), length=num_steps - 1)


@pytest.fixture(scope="module")
def actions():
    return np.random.default_rng(1).standard_normal((2, HORIZON, 1))


@pytest.mark.parametrize("spelling", ["one site", "scan"])
def test_an_lds_with_actions_is_the_dense_gaussian(x64, actions, spelling):
    """Noise by its root and not its square, actions of the future, no length fixed."""
    y, past = sequences(count=2, steps=5)
    model, data, future, axis = known_lds, (y, past), actions, 1
    if spelling == "scan":
        model, axis = scanned_lds, 0
        data = jnp.swapaxes(y, 0, 1), jnp.swapaxes(past, 0, 1)
        future = jnp.swapaxes(actions, 0, 1)
    paths = ns.forecast(
        model,
        ns.AutoSVAE(model),
        {},
        KEY,
        *data,
        horizon=HORIZON,
        future_inputs={"actions": future},
        num_samples=DRAWS,
    )
    later = 5 + np.arange(HORIZON)
    for n in range(2):
        joint = dense_lds(np.concatenate([past[n], actions[n]]))
        whole = np.concatenate([y[n], np.zeros((HORIZON, 3))])
        joint = joint.given(whole, np.arange(5 + HORIZON) < 5)
        for name, moments in (("x", joint.states), ("y", joint.observations)):
            found = np.moveaxis(paths[name], 1 + axis, 1)[:, :, n]
            assert_moments(found, *moments(later))


def test_an_hmm_moves_on_by_powers_of_its_matrix(x64):
    y, _ = sequences(count=2, steps=6, outputs=2)
    guide = ns.AutoSVAE(known_hmm)
    paths = ns.forecast(
        known_hmm, guide, {}, KEY, y, horizon=HORIZON, num_samples=DRAWS
    )
    probs = np.asarray(guide.posterior_local({}, y)["z"].probs)[:, -1]
    assert set(paths) == {"z", "x", "y"}
    for h in range(HORIZON):
        probs = probs @ ROWS
        share = np.mean(paths["z"][:, :, h], 0)
        error = np.sqrt(probs[:, 1] * probs[:, 0] / DRAWS)
        assert np.all(np.abs(share - probs[:, 1]) < 5 * error)


def test_a_switching_system_switches_on(x64):
    """One step on from independent states, as the guide has them."""
    y, _ = sequences(count=2, steps=6, outputs=2)
    guide = ns.AutoSVAE(known_slds)
    paths = ns.forecast(known_slds, guide, {}, KEY, y, horizon=2, num_samples=DRAWS)
    local = guide.posterior_local({}, y)
    probs = np.asarray(local["z"].probs[:, -1]) @ ROWS
    mean, cov = (np.asarray(m[:, -1]) for m in (local["x"].mean, local["x"].covariance))
    for n in range(2):
        means = np.einsum("kij,j->ki", TURNS, mean[n])
        covs = TURNS @ cov[n] @ np.swapaxes(TURNS, -1, -2)
        covs = covs + STEP_NOISE[:, None, None] * np.eye(2)
        total = probs[n] @ means
        away = means - total
        covariance = np.einsum("k,kij->ij", probs[n], covs)
        covariance = covariance + np.einsum("k,ki,kj->ij", probs[n], away, away)
        assert_moments(paths["x"][:, n, 0], total, covariance)


def test_parameters_are_uncertain(x64):
    """Of an observed autoregression, the next state has a Student t distribution."""
    x, _ = sequences(count=2, steps=6, outputs=2)
    guide = ns.AutoSVAE(observed_lds)
    params, _ = steps(make_svi(observed_lds, guide), 1, x)
    data = params, KEY, x
    paths = ns.forecast(observed_lds, guide, *data, horizon=1, num_samples=DRAWS)
    posterior = guide.get_posterior(params)["dynamics"]
    natural = params["dynamics_auto_natural"]
    last = np.asarray(x[:, -1])
    columns = np.asarray(natural.uu)
    weight = np.linalg.solve(columns, np.asarray(natural.vu).T).T
    scale = np.asarray(natural.vv) - weight @ columns @ weight.T
    df = float(natural.df)
    for n in range(2):
        spread = 1 + last[n] @ np.linalg.solve(columns, last[n])
        covariance = scale * spread / (df - 2 - 1)
        assert_moments(paths["x"][:, n, 0], weight @ last[n], covariance)
    assert posterior.mean.shape == (2, 4)


def test_a_padded_sequence_goes_on_from_its_own_end(x64):
    """With another number of steps than the guide has read its model with."""
    y, _ = sequences(count=2, steps=6, outputs=2)
    guide = ns.AutoSVAE(known_hmm)
    guide.posterior_local({}, y)
    lengths = jnp.array([5, 2])
    seen = jnp.arange(5) < lengths[:, None]
    junk = jnp.where(seen[..., None], y[:, :5], 1e3)
    padded = {"lengths": lengths, "mask": seen}
    data = known_hmm, guide, {}, KEY, junk
    paths = ns.forecast(*data, horizon=7, num_samples=DRAWS, **padded)
    probs = guide.posterior_local({}, junk, **padded)["z"].probs
    for n, length in enumerate(lengths):
        goal = np.asarray(probs[n, length - 1]) @ np.linalg.matrix_power(ROWS, 2)
        error = np.sqrt(goal[1] * goal[0] / DRAWS)
        assert abs(paths["z"][:, n, 1].mean() - goal[1]) < 5 * error
    came, seen = y[:, :4], {"mask": jnp.ones((2, 4), bool)}  # longer than one of them
    options = {"future": {"y": came}, "future_inputs": seen, "num_samples": DRAWS}
    found = ns.log_score(*data, **options, **padded)["y"]
    for n, h in np.ndindex(2, 4):
        last = np.asarray(probs[n, lengths[n] - 1])
        goal = last @ np.linalg.matrix_power(ROWS, h + 1)
        noise = [(spread + NOISE) * np.eye(2) for spread in SPREAD]
        density = [multivariate_normal(*at).pdf(came[n, h]) for at in zip(LOC, noise)]
        np.testing.assert_allclose(found[n, h], np.log(goal @ density), atol=0.05)


def test_a_constant_input_is_a_bias(x64):
    """A model with a drift drifts, in any number of steps."""

    def drift(y, counts=None):
        ones = jnp.ones((y.shape[0] - 1, 1))
        weight = jnp.array([[1.0, 2.0]])
        start = jnp.zeros(1), 1e-6 * jnp.eye(1)
        step = weight, 1e-6 * jnp.eye(1)
        x = numpyro.sample("x", ns.LinearGaussianChain(*start, *step, inputs=ones))
        loc = numpyro.deterministic("loc", 1.0 * x)
        seen = dist.MultivariateNormal(loc, 0.01 * jnp.eye(1))
        seen = seen if counts is None else seen.mask(counts)
        numpyro.sample("y", seen.to_event(1), obs=y)

    y = 2.0 * jnp.arange(4)[:, None]
    paths = ns.forecast(drift, ns.AutoSVAE(drift), {}, KEY, y, horizon=3)
    np.testing.assert_allclose(paths["y"].mean(0)[:, 0], [8.0, 10.0, 12.0], atol=0.1)
    np.testing.assert_array_equal(paths["loc"], paths["x"])
    future = {"y": jnp.array([[8.0], [10.0], [13.0]])}
    score = ns.log_score(drift, ns.AutoSVAE(drift), {}, KEY, y, future=future)["y"]
    away = np.array([0.0, 0.0, 1.0])
    goal = -0.5 * (away**2 / 0.01 + np.log(2 * np.pi * 0.01))
    np.testing.assert_allclose(score, goal, rtol=0.02)
    assert score.shape == (3,)
    # What is masked is not scored.
    args, given = (drift, ns.AutoSVAE(drift), {}, KEY, y), {"future": future}
    counts = jnp.ones(4, bool), jnp.array([True, False, True])
    given["future_inputs"] = {"counts": counts[1]}
    masked = ns.log_score(*args, counts[0], **given, num_samples=100)["y"]
    np.testing.assert_allclose(masked, np.where(counts[1], goal, np.nan), rtol=0.05)


@pytest.mark.slow
def test_networks_forecast_what_they_see(actions):
    """Counts behind a network, with learnt dynamics, whatever the length."""
    y, past = sequences(count=2, steps=5)
    counts, options = jnp.abs(y * 3).astype(int), {"likelihood": "poisson"}
    guide = ns.AutoSVAE(lds_svae, lds_recognition)
    svi = make_svi(lds_svae, guide)
    params = svi.get_params(svi.init(KEY, counts, past, **options))
    data = lds_svae, guide, params, KEY, counts, past
    given = {"num_samples": 50, "future_inputs": {"actions": actions}, **options}
    paths = ns.forecast(*data, horizon=HORIZON, **given)
    assert paths["y"].shape == (50, 2, HORIZON, 3)
    assert paths["y"].dtype.kind == "i"
    score = ns.log_score(*data, future={"y": counts[:, :HORIZON]}, **given)["y"]
    assert score.shape == (2, HORIZON)
    assert bool(jnp.all(jnp.isfinite(score)))
    with pytest.raises(ValueError, match=r"'actions': the model depends on its future"):
        ns.forecast(*data, horizon=2, **options)
    with pytest.raises(ValueError, match=r"'actions': found shape .* \(2, 2, 1\)"):
        ns.forecast(*data, horizon=2, **given)
    with pytest.raises(ValueError, match=r"\['action'\]: .* Accepted: .*'actions'"):
        ns.forecast(*data, horizon=2, future_inputs={"action": 0}, **options)


def test_a_mixture_has_no_future():
    guide, (y, _) = ns.AutoSVAE(known_mixture), clusters()
    with pytest.raises(ValueError, match="found no chain of states"):
        ns.forecast(known_mixture, guide, {}, KEY, y, horizon=1, num_samples=2)
    with pytest.raises(TypeError, match="accepted is AutoSVAE"):
        ns.forecast(known_mixture, known_mixture, {}, KEY, y, horizon=1)


@pytest.mark.slow
def test_intervals_cover_what_they_say():
    """Of a learnt model, on data of a model of its kind, and on what came after."""
    count, length, horizon = 200, 20, 5
    simulate = trace(seed(known_lds, 0)).get_trace
    y = simulate(shape=(count, length + horizon))["y"]["value"]
    guide = ns.AutoSVAE(linear_lds, num_starts=1)
    past, future = y[:, :length], y[:, length:]
    params, _ = steps(make_svi(linear_lds, guide), 100, past)
    data = linear_lds, guide, params, KEY, past
    paths = ns.forecast(*data, horizon=horizon, num_samples=500)["y"]
    for probability in (0.5, 0.9):
        found = ns.coverage(paths, future, probability).mean()
        assert abs(found - probability) < 0.05
    truth = dense_lds(np.zeros((length + horizon - 1, 1)))
    seen = np.arange(length + horizon) < length
    last = np.array([length + horizon - 1])
    given = [truth.given(y[n], seen).observations(last) for n in range(count)]
    goal = [multivariate_normal.logpdf(y[n, -1], *g) for n, g in enumerate(given)]
    score = ns.log_score(*data, future={"y": future}, num_samples=500)["y"][:, -1]
    np.testing.assert_allclose(score.mean(), np.mean(goal), atol=0.1)
