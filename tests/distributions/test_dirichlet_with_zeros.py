# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A Dirichlet with zeros is one of the categories that are left."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
import pytest

import numpyro_svae as ns

FULL = np.array([[1.5, 0.7, 3.0], [0.4, 2.0, 1.0]])
BAND = np.array([[1.5, 0.0, 3.0], [0.0, 2.0, 1.0]])
LEFT = np.array([[0, 2], [1, 2]])


def left(x):
    return np.asarray(x)[..., np.arange(2)[:, None], LEFT]


def test_without_zeros_it_is_numpyros():
    found, expected = ns.DirichletWithZeros(FULL), dist.Dirichlet(FULL)
    draws = [fn.sample(random.PRNGKey(0), (5,)) for fn in (found, expected)]
    np.testing.assert_allclose(*draws, rtol=1e-5)
    args = found.log_prob(draws[1]), expected.log_prob(draws[1])
    np.testing.assert_allclose(*args, rtol=1e-5)
    other = dist.Dirichlet(FULL[::-1])
    args = kl_divergence(found, other), kl_divergence(expected, other)
    np.testing.assert_allclose(*args, rtol=1e-4)


def test_zeros_are_left_out(x64):
    made, rest = ns.DirichletWithZeros(BAND), dist.Dirichlet(left(BAND))
    draws = made.sample(random.PRNGKey(0), (2000,))
    assert np.all(np.asarray(draws)[:, BAND == 0] == 0)
    np.testing.assert_allclose(jnp.mean(draws, 0), made.mean, atol=0.02)
    value = np.zeros((4, 2, 3))
    np.put_along_axis(value, LEFT[None], rest.sample(random.PRNGKey(1), (4,)), -1)
    args = made.log_prob(value), rest.log_prob(left(value))
    np.testing.assert_allclose(*args, rtol=1e-10)
    other = 2.0 * BAND + (BAND != 0)
    found = kl_divergence(made, ns.DirichletWithZeros(other))
    expected = kl_divergence(rest, dist.Dirichlet(left(other)))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_what_is_impossible():
    made = ns.DirichletWithZeros(BAND[0])
    assert made.log_prob(jnp.array([0.2, 0.3, 0.5])) == -jnp.inf
    assert kl_divergence(made, dist.Dirichlet(FULL[0])) == jnp.inf
    alone = ns.DirichletWithZeros(jnp.array([0.0, 0.3]))
    assert np.array_equal(alone.sample(random.PRNGKey(0)), [0.0, 1.0])
    assert alone.log_prob(jnp.array([0.0, 1.0])) == 0.0
    with pytest.raises(ValueError, match="invalid concentration"):
        ns.DirichletWithZeros(jnp.array([-1.0, 1.0]))


def test_gradients_are_finite_beside_zeros():
    value = jnp.array([[0.3, 0.0, 0.7], [0.0, 0.4, 0.6]])

    def total(concentration, x):
        fn = ns.DirichletWithZeros(concentration)
        drawn = fn.sample(random.PRNGKey(0)) ** 2
        return jnp.sum(fn.log_prob(x)) + jnp.sum(drawn)

    for found in jax.grad(total, (0, 1))(jnp.asarray(BAND), value):
        assert np.all(np.isfinite(found))
