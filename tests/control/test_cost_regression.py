# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Costs by regression: what is true, from states that are known or smoothed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns
from numpyro_svae.control import QuadraticCost, fit_quadratic_cost

N, T, D, A = 20, 4, 2, 1


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def true(rng):
    root = rng.standard_normal((D + A, D))  # flat in one direction
    joint = root @ root.T
    return QuadraticCost(
        joint[:D, :D],
        joint[D:, D:],
        rng.standard_normal(D),
        joint[D:, :D],
        rng.standard_normal(D),
        rng.standard_normal(A),
        0.3,
    )


def same(found, true, **how):
    for one, other in zip(found.joint(1), true.joint(1)):
        np.testing.assert_allclose(one, other, **how)


def test_known_states_give_the_cost_back(x64, rng, true):
    states = 3.0 + rng.standard_normal((N, T + 1, D)) * [1.0, 0.1]
    actions = rng.standard_normal((N, T, A))
    price = jax.vmap(jax.vmap(true))(states[:, :-1], actions)
    found = jax.jit(lambda c: fit_quadratic_cost(states, actions, c, ridge=0.0))(price)
    same(found, true, rtol=1e-5, atol=1e-5)


def test_uncertain_states_do_not_flatten_it(x64, rng, true):
    """Observed costs that are what is expected given the data."""
    actions = rng.standard_normal((N, T, A))
    wide = jnp.asarray(rng.uniform(0.2, 2.0, (N, 1, 1)) * np.eye(D))
    chain = ns.LinearGaussianChain(
        jnp.asarray(rng.standard_normal((N, D))),
        wide,
        0.9 * jnp.eye(D),
        0.5 * wide[:, None],
        num_steps=T + 1,
    )
    mean = jnp.concatenate([chain.mean[:, :-1], actions], -1)
    covariance = jnp.pad(chain.covariance[:, :-1], [(0, 0)] * 2 + [(0, A)] * 2)
    price = true.joint(T).expected(mean, covariance)
    found = fit_quadratic_cost(chain, actions, price, ridge=0.0)
    same(found, true, rtol=1e-5, atol=1e-5)


def test_a_saddle_has_the_nearest_convex_cost(x64, rng):
    states = rng.standard_normal((N, T + 1, D))
    actions = rng.standard_normal((N, T, A))
    x, y = np.moveaxis(states[:, :-1], -1, 0)
    price = x**2 - 0.5 * y**2 + x * y + actions[..., 0] ** 2 + y
    found = fit_quadratic_cost(states, actions, price, ridge=0.0)
    matrix, *_ = (a[0] for a in found.joint(1))
    assert np.linalg.eigvalsh(matrix)[0] > -1e-10
    z = np.concatenate([states[:, :-1], actions], -1).reshape(-1, D + A)
    target = price.reshape(-1)

    def loss(flat):
        root, slope, level = np.split(flat, [9, 12])
        curved = 0.5 * jnp.sum((z @ root.reshape(3, 3)) ** 2, -1)
        return jnp.mean((curved + z @ slope + level - target) ** 2)

    best = min(
        minimize(jax.value_and_grad(loss), rng.standard_normal(13), jac=True).fun
        for _ in range(3)
    )
    fitted = jax.vmap(found)(z[:, :D], z[:, D:])
    np.testing.assert_allclose(np.mean((fitted - target) ** 2), best, rtol=1e-5)


def test_single_precision_is_near_enough(rng, true):
    states = rng.standard_normal((N, T + 1, D))
    actions = rng.standard_normal((N, T, A))
    price = jax.vmap(jax.vmap(true))(states[:, :-1], actions)
    found = fit_quadratic_cost(states, actions, price, ridge=1e-5)
    same(found, true, atol=0.02)


def test_costs_of_other_steps_are_refused():
    states, actions = np.zeros((N, T + 1, D)), np.zeros((N, T, A))
    with pytest.raises(ValueError, match=r"and \(20, 5\); accepted are"):
        fit_quadratic_cost(states, actions, np.zeros((N, T + 1)))
