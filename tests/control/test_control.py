# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Regulators and planners against dense minimisation, Riccati and sampling."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

import numpyro_svae as ns
from numpyro_svae.control import (
    ControlProblem,
    QuadraticCost,
    plan_by_gradient,
    plan_by_sampling,
    solve_lqr,
)

HORIZON = 5
WEIGHT = np.array([[1.0, 0.1, 0.0, 0.05], [0.0, 1.0, 0.1, -0.02]])  # x, v, force, 1
NOISE = 0.01 * np.eye(2)


def known_dynamics(certainty=1e12):
    """A posterior that is all but certain, or less so."""
    df = 1e10
    return ns.MatrixNormalInverseWishart(
        jnp.asarray(WEIGHT), certainty * jnp.eye(4), df, df * jnp.asarray(NOISE)
    )


def cost(target=(1.0, 0.0), dtype=float):
    state, action = jnp.diag(jnp.array([2.0, 0.1])), 0.05 * jnp.eye(1)
    return QuadraticCost(state, action, jnp.asarray(target, dtype))


def problem_of(price, *, start=(0.3, -0.2), bound=np.inf, horizon=HORIZON, **options):
    return ControlProblem(
        price,
        price.final,
        horizon,
        jnp.asarray(WEIGHT)[None],
        jnp.asarray(start)[None],
        -bound,
        bound,
        known=jnp.ones(1),
        **options,
    )


def follow(regulator, x):
    """Actions of a regulator in dynamics without noise."""
    actions = []
    for gain, offset in zip(regulator.gain, regulator.offset):
        actions.append(gain @ x + offset)
        x = WEIGHT @ np.concatenate([x, actions[-1], [1.0]])
    return jnp.stack(actions)


def test_regulator_is_the_dense_minimum(x64):
    price = cost()
    regulator = solve_lqr(known_dynamics(), price, HORIZON, jnp.ones(1))
    problem = problem_of(price)
    zero = jnp.zeros(HORIZON)

    def total(actions):
        return problem.expected_cost(actions[:, None])

    best = zero - jnp.linalg.solve(jax.hessian(total)(zero), jax.grad(total)(zero))
    found = follow(regulator, np.array([0.3, -0.2]))
    np.testing.assert_allclose(found[:, 0], best, atol=1e-7)


def test_long_horizons_approach_the_riccati_equation(x64):
    price = cost(target=(0.0, 0.0))
    dynamics = known_dynamics()
    regulator = solve_lqr(dynamics, price, 400, jnp.zeros(1))
    A, B = WEIGHT[:, :2], WEIGHT[:, 2:3]
    value = solve_discrete_are(A, B, np.asarray(price.state), np.asarray(price.action))
    np.testing.assert_allclose(regulator.value[0], value, rtol=1e-6)


def test_cost_to_go_is_that_of_sampled_dynamics(x64):
    """One step: the expectation over the posterior, and its minimum."""
    price = cost()
    dynamics = ns.MatrixNormalInverseWishart(
        jnp.asarray(WEIGHT), 4 * jnp.eye(4), 12.0, 9 * jnp.asarray(NOISE)
    )
    x = jnp.array([0.3, -0.2])
    regulator = solve_lqr(dynamics, price, 1, jnp.ones(1))
    action = regulator.gain[0] @ x + regulator.offset[0]
    size = 400_000
    draws = dynamics.sample(random.PRNGKey(0), (size,))
    weight, cov = dynamics.unpack(draws)

    def costs(action):
        u = jnp.concatenate([x, action, jnp.ones(1)])
        mean = weight @ u
        spread = 0.5 * jnp.einsum("ij,nij->n", price.state, cov)
        return price(x, action) + jax.vmap(price.final)(mean) + spread

    slopes = jax.jacobian(lambda a: costs(a).mean())(action)
    each = jax.jvp(costs, (action,), (jnp.ones(1),))[1]
    assert np.abs(slopes[0]) < 4 * np.std(each) / np.sqrt(size)
    careless = solve_lqr(known_dynamics(), price, 1, jnp.ones(1))
    assert np.abs(action) < np.abs(careless.gain[0] @ x + careless.offset[0])


def test_gradients_find_the_regulator_where_nothing_is_bounded(x64):
    price = cost()
    expected = follow(
        solve_lqr(known_dynamics(), price, HORIZON, jnp.ones(1)), np.array([0.3, -0.2])
    )
    plan = jax.jit(lambda: plan_by_gradient(problem_of(price), num_steps=1500))()
    np.testing.assert_allclose(plan.actions, expected, atol=1e-4)
    np.testing.assert_allclose(plan.cost, problem_of(price).expected_cost(expected))


@pytest.mark.parametrize("by", ["gradient", "sampling"])
def test_plans_stay_within_the_bounds_and_reach_the_target(by):
    price = cost(dtype=jnp.float32)
    problem = problem_of(price, bound=0.8, horizon=40)
    key = random.PRNGKey(0)
    planners = {
        "gradient": lambda: plan_by_gradient(problem),
        "sampling": lambda: plan_by_sampling(key, problem, 1.0),
    }
    plan = jax.jit(planners[by])()
    assert plan.actions.shape == (40, 1)
    assert plan.actions.dtype == jnp.float32
    assert jnp.max(jnp.abs(plan.actions)) <= jnp.float32(0.8)
    assert jnp.max(jnp.abs(plan.actions)) > 0.7
    idle = problem.expected_cost(jnp.zeros((40, 1)))
    assert plan.cost < 0.7 * idle
    assert jnp.abs(problem.rollout(plan.actions)[0, -10:, 0] - 1.0).max() < 0.25


def test_sampling_sees_over_a_hill():
    """A small goal at hand and a large one behind a hill."""

    def final(x):
        return -0.3 * jnp.exp(-8 * (x[0] + 0.5) ** 2) - jnp.exp(-8 * (x[0] - 1.5) ** 2)

    def step(x, action):
        return 1e-3 * action @ action

    weight = jnp.array([[[1.0, 1.0]]])
    problem = ControlProblem(step, final, 3, weight, jnp.array([[-0.4]]), -1.0, 1.0)
    greedy = plan_by_gradient(problem)
    wide = plan_by_sampling(random.PRNGKey(0), problem, 1.0)
    assert greedy.cost > -0.35
    assert wide.cost < -0.95


def test_samples_may_change_with_time_and_be_disturbed(x64):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, HORIZON, 2, 3))
    noise = rng.standard_normal((3, HORIZON, 2))
    start = rng.standard_normal((3, 2))
    actions = rng.standard_normal((HORIZON, 1))
    problem = ControlProblem(
        cost(),
        cost().final,
        HORIZON,
        *map(jnp.asarray, (weight, start)),
        disturbance=jnp.asarray(noise),
    )
    paths = problem.rollout(jnp.asarray(actions))
    for s in range(3):
        x = start[s]
        for t in range(HORIZON):
            x = weight[s, t] @ np.concatenate([x, actions[t]]) + noise[s, t]
            np.testing.assert_allclose(paths[s, t + 1], x, rtol=1e-10)


def test_shapes_that_do_not_fit_are_named():
    price = cost()
    with pytest.raises(ValueError, match=r"weight, start: found shapes \(2, 4\)"):
        ControlProblem(price, price.final, 3, jnp.asarray(WEIGHT), jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"2 known inputs; accepted are \(2, 2"):
        problem = jnp.asarray(WEIGHT)[None], jnp.zeros((1, 2))
        ControlProblem(price, price.final, 3, *problem, known=jnp.ones(2))
    with pytest.raises(ValueError, match="1 actions and 0 known inputs"):
        solve_lqr(known_dynamics(), price, 3)
    with pytest.raises(ValueError, match="elites: found 1; accepted are from 2"):
        plan_by_sampling(random.PRNGKey(0), problem_of(price), 1.0, elites=1)
