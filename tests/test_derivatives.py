# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gradients of batches of which some results are shared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from numpyro_svae.derivatives import define_vjp
from numpyro_svae.inference.local.on_demand import on_demand

BATCH = jnp.arange(3.0)


def plain(h, J):
    return h * J, J**2


@jax.custom_vjp
def with_rule(h, J):
    return plain(h, J)


def backward(residuals, g):
    h, J = residuals
    return g[0] * J, g[0] * h + 2 * g[1] * J


define_vjp(with_rule, lambda h, J: (plain(h, J), (h, J)), backward)


@pytest.mark.parametrize(
    "function", [with_rule, lambda h, J: on_demand(plain, h, J)], ids=["rule", "again"]
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_a_batch_shares_counts_once(function, wrap):
    def total(function, J):
        means, shared = jax.vmap(wrap(lambda h: function(h, J)))(BATCH)
        return jnp.sum(means) + jnp.sum(shared)

    both = [lambda J, f=f: total(f, J) for f in (function, plain)]
    np.testing.assert_allclose(*(jax.grad(f)(2.0) for f in both))
    np.testing.assert_allclose(*(jax.grad(jax.grad(f))(2.0) for f in both))


def conditioned(F, h):
    chain = ns.LinearGaussianChain(
        jnp.zeros(2), jnp.eye(2), F, 0.5 * jnp.eye(2), num_steps=4
    )
    return chain.condition(ns.GaussianPotential(h, jnp.ones((4, 2))))


def begun_elsewhere(F, h):
    chain = ns.LinearGaussianChain(h[0], jnp.eye(2), F, 0.5 * jnp.eye(2), num_steps=4)
    return chain, jnp.sum(chain.reverse().transition_cov ** 2)


@pytest.mark.parametrize("chain_of", [conditioned, begun_elsewhere])
def test_covariances_that_paths_share_count_once(chain_of, x64):
    """Two sequences have the dynamics and the covariances in common."""
    h = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 2)))

    def of_one(F, h):
        chain, more = chain_of(F, h)
        return jnp.sum(chain.mean**2) + jnp.sum(chain.covariance**2) + more

    def together(F):
        return jnp.sum(jax.vmap(of_one, (None, 0))(F, h))

    def apart(F):
        return sum(of_one(F, each) for each in h)

    F = jnp.array([[0.9, -0.3], [0.2, 0.8]])
    found, expected = jax.grad(together)(F), jax.grad(apart)(F)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
