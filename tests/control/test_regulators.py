# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Regulators of dynamics and costs that change in time, and policies around them."""

from types import SimpleNamespace

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from numpyro_svae.control import LinearGaussianPolicy, QuadraticCost, solve_lqr
from numpyro_svae.control.linear_steps import linear_steps
from numpyro_svae.control.policy import occupancy
from tests.control.linear import A, D, E, T, costs, policy, posterior, value_of, weights


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_known_dynamics_are_the_dense_minimum(x64, rng):
    """Cross terms, slopes, targets, inputs and dynamics of each step."""
    (cost, last), weight = costs(rng), weights(rng)
    known, start = rng.standard_normal((T, E)), rng.standard_normal(D)

    def path_of(actions):
        states = [start]
        for t in range(T):
            states.append(
                weight[t] @ jnp.concatenate([states[-1], actions[t], known[t]])
            )
        return states

    def total(flat):
        actions = flat.reshape(T, A)
        states = path_of(actions)
        steps = sum(value_of(cost, t, states[t], actions[t]) for t in range(T))
        return steps + last.final(states[-1])

    zero = jnp.zeros(T * A)
    best = -jnp.linalg.solve(jax.hessian(total)(zero), jax.grad(total)(zero))
    noise = np.zeros((D, D))
    regulator = solve_lqr((weight, noise), cost, T, known, final=last)
    for t, x in enumerate(path_of(best.reshape(T, A))[:T]):
        found = regulator.gain[t] @ x + regulator.offset[t]
        np.testing.assert_allclose(found, best[t * A : (t + 1) * A], rtol=1e-8)
    to_go = 0.5 * start @ regulator.value[0] @ start + regulator.slope[0] @ start
    np.testing.assert_allclose(to_go + regulator.constant[0], total(best), rtol=1e-9)


def test_costs_to_go_are_those_of_the_moments_and_their_minimum(x64, rng):
    """Of dynamics that are uncertain, for any start and with noise of the actions."""
    (cost, last), dynamics = costs(rng), posterior(rng)
    known = rng.standard_normal((T, E))
    start = dist.MultivariateNormal(rng.standard_normal(D), 0.5 * np.eye(D))
    regulator = solve_lqr(dynamics, cost, T, known, final=last)
    steps = linear_steps(dynamics, A, T, known)

    def expected(gain, offset, noise):
        visited = occupancy(LinearGaussianPolicy(gain, offset, noise), steps, start)
        each = cost.joint(T).expected(visited.mean, visited.covariance)
        end = visited.last_mean, visited.last_covariance
        return jnp.sum(each) + last.joint_final(1).expected(*end)

    zero = jnp.zeros((T, A, A))
    own = regulator.gain, regulator.offset, zero
    first = start.mean, start.covariance_matrix
    second = first[1] + jnp.outer(first[0], first[0])
    to_go = 0.5 * jnp.sum(regulator.value[0] * second) + regulator.constant[0]
    to_go = to_go + regulator.slope[0] @ first[0]
    np.testing.assert_allclose(expected(*own), to_go, rtol=1e-10)
    slopes = jax.grad(expected, (0, 1, 2))(*own)
    np.testing.assert_allclose(slopes[0], 0, atol=1e-9)
    np.testing.assert_allclose(slopes[1], 0, atol=1e-9)
    np.testing.assert_allclose(slopes[2], 0.5 * regulator.curvature, rtol=1e-8)


def test_a_policy_trades_cost_for_entropy(x64, rng):
    cost, _ = costs(rng)
    regulator = solve_lqr((weights(rng)[..., :-E], np.eye(D)), cost, T)
    found = regulator.policy(0.3).covariance
    # tr(H C) / 2 - 0.3 log|C| / 2 is least
    one = np.broadcast_to(0.3 * np.eye(A), found.shape)
    np.testing.assert_allclose(regulator.curvature @ found, one, atol=1e-10)


def test_moments_are_those_of_drawn_paths(rng):
    dynamics, acting = posterior(rng), policy(rng)
    known = np.array([0.7])
    start = dist.MultivariateNormal(jnp.array([1.0, -0.5]), 0.5 * jnp.eye(D))
    found = jax.jit(occupancy)(acting, linear_steps(dynamics, A, T, known), start)
    size, keys = 40_000, random.split(random.key(0), 3 * T + 1)
    x = start.sample(keys[-1], (size,))
    for t in range(T):
        draw = dist.MultivariateNormal(
            x @ acting.gain[t].T + acting.offset[t], acting.covariance[t]
        )
        z = jnp.concatenate([x, draw.sample(keys[3 * t])], -1)
        check(z, found.mean[t], found.covariance[t])
        draws = dynamics.sample(keys[3 * t + 1], (size,))[:, t]
        weight, cov = dynamics.unpack(draws)
        u = jnp.concatenate([z, jnp.full((size, 1), 0.7)], -1)
        mean = (weight @ u[..., None])[..., 0]
        x = dist.MultivariateNormal(mean, cov).sample(keys[3 * t + 2])
    check(x, found.last_mean, found.last_covariance)


def check(draws, mean, covariance):
    gap = draws - mean
    products = gap[:, :, None] * gap[:, None, :]
    for found, expected in ((draws, mean), (products, covariance)):
        error = jnp.std(found, 0) / np.sqrt(len(draws))
        assert jnp.all(jnp.abs(jnp.mean(found, 0) - expected) < 5 * error)


def test_actions_are_drawn_around_what_is_linear_in_the_state(rng):
    acting, x = policy(rng), jnp.array([0.3, -1.0])
    found = jax.jit(lambda step: acting(x, step))(2)
    np.testing.assert_allclose(
        found.mean, acting.gain[2] @ x + acting.offset[2], rtol=1e-5
    )
    np.testing.assert_allclose(found.covariance_matrix, acting.covariance[2], rtol=1e-4)
    np.testing.assert_array_equal(acting(x, 99).mean, acting(x, T - 1).mean)
    blind = LinearGaussianPolicy.blind(T, D, 0.5 * np.eye(A), 0.1)
    assert blind.horizon == T
    np.testing.assert_allclose(blind(x, 1).mean, [0.1, 0.1])


def test_an_agent_draws_them_at_what_is_known_step_by_step(rng):
    acting, x = policy(rng), jnp.array([0.3, -1.0])
    known = dist.MultivariateNormal(x[None], jnp.eye(D)[None])
    belief = SimpleNamespace(marginals={"x": known}, beliefs={"x": known})
    memory, size = acting.begin(), 20_000
    for t in range(2):
        keys = random.split(random.key(t), size)
        draw = jax.vmap(lambda key, memory=memory: acting.act(key, belief, memory))
        draws, later = draw(keys)
        check(draws, acting(x, t).mean, acting.covariance[t])
        memory = later[0]


def test_parts_of_the_wrong_shape_are_named(rng):
    (cost, last), weight = costs(rng), weights(rng)
    known = np.zeros(E)
    with pytest.raises(ValueError, match=r"batch shape \(4,\).* \(\) and \(3,\)"):
        solve_lqr((weight, np.eye(D)), last, T - 1, known)
    odd = QuadraticCost(np.eye(D), np.eye(A), np.zeros(D), cross=np.eye(3))
    with pytest.raises(ValueError, match=r"cross of QuadraticCost: found shape \(3, 3"):
        solve_lqr((weight, np.eye(D)), odd, T, known)
    wide = QuadraticCost(np.eye(3), np.eye(A), np.zeros(3))
    with pytest.raises(ValueError, match=r"final: found a target of shape \(3,\)"):
        solve_lqr((weight, np.eye(D)), cost, T, known, final=wide)


def test_a_cost_without_a_minimum_is_refused():
    known = jnp.array([[0.9, 0.0]]), 0.1 * jnp.eye(1)  # the action does nothing
    cost = QuadraticCost(jnp.eye(1), jnp.zeros((1, 1)), jnp.zeros(1))
    with pytest.raises(
        ValueError, match=r"no action that costs least.*positive definite"
    ):
        solve_lqr(known, cost, 2)
