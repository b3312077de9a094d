# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forecasts against closed forms, for every kind of chain."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, sequences, steps
from tests.forecasting.dense import dense
from tests.models import known_lds, observed_lds
from tests.switching import (
    ROWS,
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
