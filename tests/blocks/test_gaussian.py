# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One Gaussian and one potential, against the textbook."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import numpyro.distributions as dist
import pytest

from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.potentials import GaussianPotential

pytestmark = pytest.mark.x64


def spd(seed: int, *shape: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=shape + shape[-1:])
    return a @ np.swapaxes(a, -1, -2) + 0.1 * np.eye(shape[-1])


@pytest.mark.parametrize("full", [True, False])
def test_against_the_formula(full):
    rng = np.random.default_rng(0)
    loc, cov = rng.normal(size=(4, 1, 3)), spd(0, 5, 3)
    h = rng.normal(size=(4, 5, 3))
    J = spd(1, 5, 3) if full else np.exp(rng.normal(size=(5, 3)))
    J_full = J if full else J[..., None] * np.eye(3)
    posterior = condition(
        jnp.asarray(loc),
        jnp.asarray(cov),
        GaussianPotential(h, np.broadcast_to(J, (4,) + J.shape)),
    )
    precision = np.linalg.solve(cov, np.eye(3))
    expected = np.linalg.solve(precision + J_full, np.eye(3))
    right = np.squeeze(precision @ loc[..., None], -1) + h
    mean = np.squeeze(expected @ right[..., None], -1)
    np.testing.assert_allclose(posterior.mean, mean)
    np.testing.assert_allclose(
        posterior.covariance, np.broadcast_to(expected, (4, 5, 3, 3)), atol=1e-12
    )
    tril = posterior.scale_tril
    np.testing.assert_allclose(
        tril @ jnp.swapaxes(tril, -1, -2), posterior.covariance, atol=1e-12
    )
    prior = dist.MultivariateNormal(loc, cov)  # Bayes' rule, read at one point
    value = GaussianPotential(h, np.broadcast_to(J, (4,) + J.shape))(mean)
    evidence = (
        prior.log_prob(mean)
        + value
        - dist.MultivariateNormal(posterior.mean, expected).log_prob(mean)
    )
    np.testing.assert_allclose(posterior.log_normalizer, evidence)


def test_gradient_of_the_log_normaliser_is_the_expected_statistics():
    loc, cov, J = jnp.ones((2, 3)), jnp.asarray(spd(0, 2, 3)), jnp.asarray(spd(1, 2, 3))
    h = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))

    def evidence(h, J):
        posterior = condition(loc, cov, GaussianPotential(h, J))
        return posterior.log_normalizer.sum(), posterior

    (g_h, g_J), q = jax.grad(evidence, (0, 1), has_aux=True)(h, J)
    second = q.covariance + q.mean[..., None] * q.mean[..., None, :]
    np.testing.assert_allclose(g_h, q.mean)
    np.testing.assert_allclose(g_J, -0.5 * second)


def test_gradients_of_everything():
    def all_outputs(loc, half, h, J):
        cov = half @ jnp.swapaxes(half, -1, -2) + jnp.eye(2)
        return condition(loc, cov, GaussianPotential(h, J))

    args = jax.tree.map(
        lambda i: jax.random.normal(jax.random.key(i), (3, 2)), (0, 1, 2)
    )
    half = jax.random.normal(jax.random.key(3), (3, 2, 2))
    check_grads(all_outputs, (args[0], half, args[1], jnp.exp(args[2])), 1, modes="rev")


@pytest.mark.parametrize("batch", [(), (0,), (2, 0)])
def test_zero_potential_and_empty_batches(batch):
    loc, cov = jnp.ones(batch + (2,)), jnp.broadcast_to(jnp.eye(2), batch + (2, 2))
    nothing = GaussianPotential(jnp.zeros(batch + (2,)), jnp.zeros(batch + (2,)))
    posterior = condition(loc, cov, nothing)
    np.testing.assert_array_equal(posterior.mean, loc)
    np.testing.assert_array_equal(posterior.covariance, cov)
    np.testing.assert_array_equal(posterior.log_normalizer, jnp.zeros(batch))


def test_nothing_is_computed_for_a_log_normaliser_that_nothing_hangs_on():
    """Its derivative is zero, which XLA would multiply with all that it takes."""
    loc, cov, J = jnp.ones((4, 3)), jnp.asarray(spd(0, 4, 3)), jnp.asarray(spd(1, 4, 3))
    h = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))

    def moments(share, given):
        posterior = condition(*given[:2], GaussianPotential(*given[2:]))
        value = jnp.sum(jnp.sin(posterior.mean)) + jnp.sum(posterior.covariance**3)
        return (
            value if share is None else value + share * posterior.log_normalizer.sum()
        )

    gradients = jax.grad(moments, 1)
    for given in ((loc, cov, h, J), (loc, cov, h, J[..., 0])):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14),
            jax.jit(gradients)(None, given),
            jax.jit(gradients)(0.0, given),
        )
        flops = [
            jax.jit(gradients).lower(share, given).cost_analysis()["flops"]
            for share in (None, 0.0)
        ]
        assert flops[0] < 0.95 * flops[1]
