# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""States in a gap of a switching system: those that both ends of the gap call for."""

from itertools import pairwise, product

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.stats import multivariate_normal

import numpyro_svae as ns

STEPS, NOISE, SEEN_NOISE = 6, 0.02, 0.05
GAP = slice(2, 5)
SEEN = np.array([True, True, False, False, False, True])
INITIAL, ROWS = np.full(2, 0.5), np.array([[0.9, 0.1], [0.1, 0.9]])
TURN = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
WEIGHT = np.stack([np.eye(2), TURN])


def simulate(rng, states):
    x = [np.array([2.0, 0.0])]
    for state in states[1:]:
        step = np.sqrt(NOISE) * rng.standard_normal(2)
        x.append(WEIGHT[state] @ x[-1] + step)
    return np.array(x) + np.sqrt(SEEN_NOISE) * rng.standard_normal((STEPS, 2))


def system(y):
    """Stays where it is, or turns; both with the same noise."""
    with numpyro.plate("sequences", len(y)):
        states = ns.DiscreteMarkovChain(jnp.array(INITIAL), jnp.array(ROWS), STEPS)
        z = numpyro.sample("z", states)
        weight, cov = jnp.array(WEIGHT)[z[..., 1:]], NOISE * jnp.eye(2)
        chain = ns.LinearGaussianChain(
            jnp.zeros(2), 4 * jnp.eye(2), weight, cov, num_steps=STEPS
        )
        x = numpyro.sample("x", chain)
        seen = dist.MultivariateNormal(x, SEEN_NOISE * jnp.eye(2))
        numpyro.sample("y", seen.mask(SEEN).to_event(1), obs=y)


def log_joint(path, y):
    """``log p(z, y)`` of the steps that are seen."""
    cov = np.zeros((2 * STEPS, 2 * STEPS))
    cov[:2, :2] = 4 * np.eye(2)
    for t, state in enumerate(path[1:], 1):
        now, before, past = (slice(2 * t, 2 * t + 2), slice(2 * t - 2, 2 * t), 2 * t)
        cov[now, :past] = WEIGHT[state] @ cov[before, :past]
        cov[:past, now] = cov[now, :past].T
        turned = WEIGHT[state] @ cov[before, before] @ WEIGHT[state].T
        cov[now, now] = turned + NOISE * np.eye(2)
    kept = np.flatnonzero(np.repeat(SEEN, 2))
    cov = cov[np.ix_(kept, kept)] + SEEN_NOISE * np.eye(len(kept))
    value = multivariate_normal(np.zeros(len(kept)), cov).logpdf(y.ravel()[kept])
    value += np.log(INITIAL[path[0]])
    return value + sum(np.log(ROWS[a, b]) for a, b in pairwise(path))


def enumerated(y):
    """Exact posterior probabilities of the second state at each step."""
    paths = list(product(range(2), repeat=STEPS))
    logs = np.array([log_joint(path, y) for path in paths])
    return np.exp(logs - np.logaddexp.reduce(logs)) @ np.array(paths)


def test_states_in_a_gap_are_found(x64):
    """Nothing is seen in the gap, and its states are not those it started with."""
    rng = np.random.default_rng(0)
    y = np.stack([simulate(rng, [k] * STEPS) for k in (0, 1, 1, 0)])
    exact = np.array([enumerated(sequence) for sequence in y])[:, GAP]
    sure = np.abs(exact - 0.5) > 0.3
    assert np.any(sure & (exact > 0.5)) and np.any(sure & (exact < 0.5))
    found = ns.AutoSVAE(system).posterior_local({}, y)["z"].probs[:, GAP, 1]
    np.testing.assert_array_equal((found > 0.5)[sure], (exact > 0.5)[sure])
