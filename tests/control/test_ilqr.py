# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Plans by iterated regulators against quadratic programmes and sampling."""

from dataclasses import dataclass

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from numpyro_svae.control import (
    ControlProblem,
    Problem,
    QuadraticCost,
    plan_by_ilqr,
    plan_by_sampling,
)
from numpyro_svae.control.box import box_minimum

T, D, A = 6, 2, 2


def linear(bound=np.inf):
    """Two samples of unstable dynamics, with inputs, and a quadratic cost."""
    rng = np.random.default_rng(0)
    weight = 0.6 * rng.standard_normal((2, D, D + A + 1))
    weight[:, :, :D] += 0.7 * np.eye(D)
    root = rng.standard_normal((D + A, D + A))
    joint = root @ root.T + 0.1 * np.eye(D + A)
    parts = joint[:D, :D], joint[D:, D:], rng.standard_normal(D), joint[D:, :D]
    cost = QuadraticCost(*map(jnp.asarray, parts))
    start = jnp.asarray(rng.standard_normal((2, D)))
    options = {"known": jnp.ones(1)}
    weight = jnp.asarray(weight)
    return ControlProblem(cost, cost.final, T, weight, start, -bound, bound, **options)


def best_within(problem, bound):
    def total(flat):
        return problem.expected_cost(flat.reshape(T, A))

    slope = jax.jit(jax.value_and_grad(total))
    bounds = [(-bound, bound)] * (T * A)
    how = {"ftol": 1e-15, "gtol": 1e-9}
    first, method = np.zeros(T * A), "L-BFGS-B"
    return minimize(slope, first, jac=True, bounds=bounds, method=method, options=how)


def test_one_step_is_the_minimum_where_it_is_quadratic(x64):
    problem = linear()
    start = jnp.ones((T, A))
    plan = jax.jit(lambda start: plan_by_ilqr(problem, start, num_steps=1))(start)

    def total(flat):
        return problem.expected_cost(flat.reshape(T, A))

    zero = jnp.zeros(T * A)
    best = -jnp.linalg.solve(jax.hessian(total)(zero), jax.grad(total)(zero))
    np.testing.assert_allclose(plan.actions.reshape(-1), best, rtol=1e-7)
    np.testing.assert_allclose(plan.cost, total(best), rtol=1e-10)


def test_bounds_are_kept_and_worked_with(x64):
    problem = linear(0.4)
    plan = plan_by_ilqr(problem, num_steps=50, tolerance=1e-12)
    best = best_within(problem, 0.4)
    assert np.max(np.abs(plan.actions)) == 0.4
    assert np.min(np.abs(plan.actions)) < 0.3
    np.testing.assert_allclose(plan.cost, best.fun, rtol=1e-6)


@dataclass(frozen=True)
class Pendulum(Problem):
    """That hangs, and is to stand up with a weak motor; a problem of its own."""

    start: jax.Array
    horizon: int = 30
    lower: float = -2.0
    upper: float = 2.0
    num_actions: int = 1

    def cost(self, x, action):
        return 0.05 * (1 + jnp.cos(x[0]) + 0.1 * x[1] ** 2 + 0.01 * action @ action)

    def final(self, x):
        return 5 * (1 + jnp.cos(x[0])) + 0.5 * x[1] ** 2

    def given(self):
        return None, None

    def step(self, sample, now, x, action):
        speed = x[1] + 0.1 * (-4.0 * jnp.sin(x[0]) + 1.5 * action[0])
        return jnp.stack([x[0] + 0.1 * speed, speed])


def test_a_pendulum_comes_up_as_by_sampling():
    problem = Pendulum(jnp.array([[0.1, 0.0]]))
    push = 0.5 * jnp.sin(0.2 * jnp.arange(30.0))[:, None]
    plan = jax.jit(lambda: plan_by_ilqr(problem, push))()
    key = random.key(0)
    sampled = jax.jit(lambda: plan_by_sampling(key, problem, 1.0, num_steps=30))()
    idle = problem.expected_cost(jnp.zeros((30, 1)))
    assert plan.cost < 0.3 * idle
    assert plan.cost <= 1.01 * sampled.cost
    assert jnp.max(jnp.abs(plan.actions)) <= 2


def test_minima_within_bounds_have_no_way_down(x64):
    rng = np.random.default_rng(0)
    root = rng.standard_normal((20, 3, 3))
    matrix = root @ root.mT + 0.1 * np.eye(3)
    slope, low = 2 * rng.standard_normal((20, 3)), -rng.uniform(0, 1, (20, 3))
    found, free = jax.vmap(box_minimum)(matrix, slope, low, low + 1.0)
    push = (matrix @ found[..., None])[..., 0] + slope
    np.testing.assert_allclose(push[free], 0, atol=1e-8)
    up, down = found == low, found == low + 1.0
    assert np.all(up[~free] | down[~free])
    assert np.all(push[~free & up] > 0)
    assert np.all(push[~free & down] < 0)
    assert 0 < np.mean(free) < 1
