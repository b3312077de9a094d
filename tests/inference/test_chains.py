# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A chain conditioned on what its expected dynamics leave over, and on what is said."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from numpyro_svae.distributions.kl import Path
from numpyro_svae.families.expected_regression import ExpectedRegression
from numpyro_svae.inference.factors.chains import ChainPrior
from numpyro_svae.inference.factors.messages import expected_transitions

BATCH, STEPS, DIM = 3, 5, 2


def problem(leftover_batch, with_inputs):
    """A prior chain with a left-over potential, and diagonal potentials."""
    a, b, c, d, e = random.split(random.key(0), 5)
    inputs = random.normal(a, (BATCH, STEPS - 1, 1)) if with_inputs else None
    columns = DIM + with_inputs
    chain = ns.LinearGaussianChain(
        jnp.ones(DIM),
        jnp.eye(DIM),
        0.5 * random.normal(b, (DIM, columns)),
        0.3 * jnp.eye(DIM),
        inputs=inputs,
        num_steps=STEPS,
    )
    root = random.normal(c, (*leftover_batch, STEPS, DIM, DIM))
    info = random.normal(d, ((BATCH,) if with_inputs else ()) + (STEPS, DIM))
    info = jnp.broadcast_to(info, jnp.broadcast_shapes(info.shape, root.shape[:-1]))
    leftover = ns.GaussianPotential(info, root @ jnp.swapaxes(root, -1, -2))
    loc = random.normal(e, (BATCH, STEPS, DIM))
    said = ns.GaussianPotential.from_loc_scale(loc, jnp.exp(loc[::-1]))
    return ChainPrior(chain, leftover, jnp.asarray(0.7)), said


@pytest.mark.x64
@pytest.mark.parametrize(
    ("batch", "with_inputs"), [((), False), ((1,), True), ((BATCH,), True)]
)
def test_the_left_over_may_come_first(batch, with_inputs):
    prior, said = problem(batch, with_inputs)
    found = prior.condition(said)
    expected, total = prior.chain.condition(said + prior.leftover)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-10)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-10)
    cross = expected.neighbor_covariance
    np.testing.assert_allclose(found.neighbor_covariance, cross, atol=1e-10)
    # log Z = E log prior + E said + entropy
    value = prior.expected(Path.of(found), found.mean, found.covariance)
    value = value + jnp.sum(said.expected(found.mean, found.covariance), -1)
    np.testing.assert_allclose(value + found.entropy(), total + 0.7, rtol=1e-10)


@pytest.mark.parametrize("shear", [1e1, 1e2])
def test_dynamics_far_from_normal_in_single_precision(shear):
    """Within a hundredth of the deviations, where marginals grow a hundredfold."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    decays = np.diag([0.97, 0.9, 0.4])
    decays[0, 2] = shear
    matrix, root = turn @ decays @ turn.T, 0.2 * rng.standard_normal((3, 3))
    J = 10.0 ** rng.uniform(-1, 4, (2, 60, 3))
    h = J * rng.standard_normal((2, 60, 3))

    def smoothed(dtype):
        with jax.enable_x64(dtype == jnp.float64):
            given = (np.float32(x) for x in (matrix, root @ root.T, h, J))
            weight, excess, *said = (jnp.asarray(x, dtype) for x in given)
            eye = jnp.eye(3, dtype=dtype)
            chain = ns.LinearGaussianChain(
                eye[0], eye, weight, 1e-3 * eye, num_steps=60
            )
            left = jnp.broadcast_to(excess, (1, 60, 3, 3))
            left = ns.GaussianPotential(jnp.zeros((2, 60, 3), dtype), left)
            prior = ChainPrior(chain, left, jnp.zeros((), dtype))
            found = prior.condition(ns.GaussianPotential(*said))
            return np.asarray(found.mean), np.asarray(found.variance)

    mean, variance = smoothed(jnp.float64)
    found, spread = smoothed(jnp.float32)
    assert found.dtype == np.float32
    assert np.max(np.abs(found - mean) / np.sqrt(variance)) < 1e-2
    np.testing.assert_allclose(spread, variance, rtol=1e-2)


def test_a_path_of_one_state_has_no_transitions():
    """Switching systems are filtered from their first step on."""
    eyes = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
    regression = ExpectedRegression(eyes, eyes, jnp.zeros_like(eyes), jnp.zeros(2))
    eye = jnp.eye(2)
    chain = ns.LinearGaussianChain(jnp.zeros((3, 2)), eye, eye, eye, num_steps=1)
    inputs = jnp.zeros((3, 0, 0))
    assert expected_transitions(regression, chain, inputs).shape == (3, 0, 2)
