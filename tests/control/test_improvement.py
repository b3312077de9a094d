# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Steps of policies against the dense joint density of their paths."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from numpyro_svae.control import LinearGaussianPolicy, QuadraticCost, improve_policy
from tests.control.linear import SIZE, A, D, T, costs, policy, positive, weights

BOUND = 0.7


@pytest.fixture
def world():
    rng = np.random.default_rng(1)
    weight, noise = weights(rng)[..., :SIZE], 0.2 * positive(rng, T, D)
    start = dist.MultivariateNormal(rng.standard_normal(D), 0.5 * np.eye(D))
    return policy(rng), (weight, noise), *costs(rng), start


def dense(acting, dynamics, start):
    """Mean and covariance of ``[x_0, a_0, x_1, ..., x_T]``, one line at a time."""
    weight, noise = dynamics
    mean, cov = jnp.asarray(start.mean), jnp.asarray(start.covariance_matrix)

    def append(mean, cov, lift, shift, spread):
        cross = lift @ cov
        whole = jnp.concatenate([cov, cross.T], -1)
        below = jnp.concatenate([cross, cross @ lift.T + spread], -1)
        mean = jnp.concatenate([mean, lift @ mean + shift])
        return mean, jnp.concatenate([whole, below])

    for t in range(T):
        lift = jnp.zeros((A, len(mean))).at[:, -D:].set(acting.gain[t])
        mean, cov = append(mean, cov, lift, acting.offset[t], acting.covariance[t])
        lift = jnp.zeros((D, len(mean))).at[:, -SIZE:].set(weight[t])
        mean, cov = append(mean, cov, lift, jnp.zeros(D), noise[t])
    return mean, cov


def expected_cost(cost, last, mean, cov):
    second, total = cov + jnp.outer(mean, mean), 0.0
    for t in range(T + 1):
        part = last.joint_final(1) if t == T else cost.joint(T)
        matrix, slope, constant = part if t == T else (a[t] for a in part)
        own = slice(t * SIZE, t * SIZE + len(slope))
        total = total + 0.5 * jnp.sum(matrix * second[own, own]) + constant
        total = total + slope @ mean[own]
    return total


def test_a_step_costs_least_at_the_bound(x64, world):
    old, dynamics, cost, last, start = world
    step = jax.vmap(
        lambda bound: improve_policy(old, dynamics, cost, start, bound, final=last)
    )
    both = jax.jit(step)(jnp.array([BOUND, 1.01 * BOUND]))
    found, further = (jax.tree.map(lambda a, i=i: a[i], both) for i in (0, 1))
    before = dist.MultivariateNormal(*dense(old, dynamics, start))

    def prices(gain, offset, covariance):
        acting = LinearGaussianPolicy(gain, offset, covariance)
        mean, cov = dense(acting, dynamics, start)
        far = dist.kl_divergence(dist.MultivariateNormal(mean, cov), before)
        return expected_cost(cost, last, mean, cov), far

    new = found.policy
    parts = new.gain, new.offset, new.covariance
    price, far = prices(*parts)
    np.testing.assert_allclose(far, found.divergence, rtol=1e-8)
    assert 0.999 * BOUND <= far <= BOUND
    np.testing.assert_allclose(price, found.cost, rtol=1e-9)
    first = prices(old.gain, old.offset, old.covariance)[0]
    np.testing.assert_allclose(first, found.old_cost, rtol=1e-9)
    assert found.cost < found.old_cost

    def lagrangian(*parts):
        price, far = prices(*parts)
        return price + found.multiplier * far

    for slope in jax.grad(lagrangian, (0, 1, 2))(*parts):
        np.testing.assert_allclose(slope, 0, atol=1e-8)
    # the multiplier is what a nat is worth
    worth = (found.cost - further.cost) / (further.divergence - found.divergence)
    np.testing.assert_allclose(worth, found.multiplier, rtol=0.02)


def test_costs_that_are_not_convex_are_held(world):
    """A hill: no regulator is there, and each step goes down as far as it may."""
    old, dynamics, _, _, start = world
    hill = QuadraticCost(-np.eye(D), -0.1 * np.eye(A), np.zeros(D))
    found = improve_policy(old, dynamics, hill, start, BOUND)
    assert 0.999 * BOUND <= found.divergence <= BOUND
    assert found.cost < found.old_cost - 0.1


def test_a_policy_of_other_states_is_refused(world):
    _, dynamics, cost, last, start = world
    odd = LinearGaussianPolicy.blind(T, D + 1, np.eye(A))
    with pytest.raises(ValueError, match=r"found gains of shape \(2, 3\)"):
        improve_policy(odd, dynamics, cost, start, BOUND, final=last)
