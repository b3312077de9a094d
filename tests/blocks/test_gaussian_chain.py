# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Inference in a Gaussian chain: derivatives, precision, and hard cases.

Values are compared with dense Gaussians and dynamax in
``tests/distributions/test_linear_gaussian_chain.py``.
"""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from numpyro_svae.blocks import gaussian_chain
from numpyro_svae.blocks.gaussian_chain import Dynamics, Gaussian
from numpyro_svae.blocks.linalg import matmul
from numpyro_svae.blocks.loops import flip_steps
from tests.blocks.hard_chains import PRECISIONS, hard_case

SIZE = 3


def problem(seed, steps, lanes, diagonal, shared=False):
    """Arguments as square roots, so that any numbers make a valid problem."""
    time = (1, 1) if shared else (max(steps - 1, 0), lanes)
    shapes = (
        (SIZE, lanes),
        (SIZE, SIZE, lanes),
        (SIZE, SIZE, *time),
        (SIZE, *time),
        (SIZE, SIZE, *time),
        (SIZE, steps, lanes),
        (SIZE, steps, lanes) if diagonal else (SIZE, SIZE, steps, lanes),
        (SIZE, 1, steps, lanes),
    )
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return tuple(0.6 * jax.random.normal(k, s) for k, s in zip(keys, shapes))


def square(a):
    eye = jnp.eye(a.shape[0]).reshape(a.shape[:2] + (1,) * (a.ndim - 2))
    return jnp.einsum("ik...,jk...->ij...", a, a) + 0.3 * eye


def outputs(loc, cov, matrix, bias, noise, h, root, eps):
    J = square(root) if root.ndim > h.ndim else root**2
    q = gaussian_chain.smooth(
        Gaussian(loc, square(cov)), Dynamics(matrix, bias, square(noise)), h, J
    )
    cross = matmul(q.dynamics.matrix, q.marginals.cov[:, :, :-1])
    return q, cross, gaussian_chain.drive(q.initial, q.dynamics, eps)


@pytest.mark.x64
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize(
    ("steps", "lanes", "shared"), [(1, 2, False), (3, 2, False), (3, 17, True)]
)
def test_gradients(steps, lanes, shared, diagonal):
    args = problem(0, steps, lanes, diagonal, shared)
    check_grads(outputs, args, 1, modes="rev", atol=1e-5, rtol=1e-5)


@pytest.mark.x64
@pytest.mark.parametrize("diagonal", [True, False])
def test_gradient_of_the_log_normaliser_is_the_expected_statistics(diagonal):
    loc, cov, matrix, bias, noise, h, root, _ = problem(1, 4, 2, diagonal)
    chain = Gaussian(loc, square(cov)), Dynamics(matrix, bias, square(noise))
    J = root**2 if diagonal else square(root)

    def evidence(h, J):
        q = gaussian_chain.smooth(*chain, h, J)
        return q.log_normalizer.sum(), flip_steps(q.marginals)

    (g_h, g_J), (mean, P) = jax.jit(jax.grad(evidence, (0, 1), has_aux=True))(h, J)
    second = P + mean[:, None] * mean[None]
    if diagonal:
        second = jnp.einsum("iitn->itn", second)
    np.testing.assert_allclose(g_h, mean, rtol=1e-9)
    np.testing.assert_allclose(g_J, -0.5 * second, rtol=1e-9)


@pytest.mark.x64
@pytest.mark.parametrize("diagonal", [True, False])
def test_what_is_shared_is_the_same_as_copied(diagonal):
    """Covariances once for all lanes, and gradients summed over what is shared."""
    loc, cov, matrix, bias, noise, h, root, eps = problem(2, 5, 20, diagonal, True)
    cov, root = cov[..., :1], root[..., :1]
    some = loc, cov, matrix, bias, noise, h, root
    shapes = [(x.shape[:-2] + (4, 20)) for x in (matrix, bias, noise)]
    copied = (
        loc,
        jnp.broadcast_to(cov, cov.shape[:-1] + (20,)),
        *map(jnp.broadcast_to, (matrix, bias, noise), shapes),
        h,
        jnp.broadcast_to(root, root.shape[:-1] + (20,)),
    )
    q, _, path = outputs(*some, eps)
    assert q.marginals.cov.shape[-1] == 1
    q_copied, _, path_copied = outputs(*copied, eps)
    np.testing.assert_allclose(q.marginals.mean, q_copied.marginals.mean, rtol=1e-9)
    np.testing.assert_allclose(path, path_copied, rtol=1e-9)

    def loss(*args):
        q, _, path = outputs(*args, eps)
        return jnp.sum(q.log_normalizer) + jnp.sum(jnp.sin(path))

    every = tuple(range(7))
    for g, g_copied in zip(
        jax.jit(jax.grad(loss, every))(*some), jax.jit(jax.grad(loss, every))(*copied)
    ):
        axes = tuple(i for i in range(g.ndim) if g.shape[i] != g_copied.shape[i])
        np.testing.assert_allclose(g, g_copied.sum(axes, keepdims=True), rtol=1e-8)


def moments(matrix, noise, h, J, eps, dtype):
    """Value, gradient and posterior moments in a given precision."""
    size = matrix.shape[0]
    cast = [jnp.asarray(x, dtype) for x in (matrix, noise * np.eye(size), h, J, eps)]

    def loss(matrix, noise, h, J, eps):
        zeros, eye = jnp.zeros((size, 1), dtype), jnp.eye(size, dtype=dtype)
        steps = Dynamics(
            matrix[..., None, None], zeros[..., None], noise[..., None, None]
        )
        q = gaussian_chain.smooth(Gaussian(zeros, eye[..., None]), steps, h, J)
        path = gaussian_chain.drive(q.initial, q.dynamics, eps)
        value = jnp.sum(q.marginals.mean**2) + jnp.sum(q.marginals.cov)
        return value + jnp.sum(q.log_normalizer) + jnp.sum(jnp.sin(path)), q

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(*cast)


# The process noise, the scale of potentials, and the error of a good moment form in
# single precision, in units of the posterior standard deviations.
TABLE = [(1e-1, 1.0, 4e-5), (1e-3, 1.0, 2e-5), (1e-5, 1.0, 2e-4), (1e-5, 1e-3, 3e-5)]


@pytest.mark.x64
@pytest.mark.parametrize(("noise", "scale", "allowed"), TABLE)
def test_single_precision(noise, scale, allowed):
    case = hard_case(1000, noise, lambda rng, shape: np.full(shape, scale**-2))
    eps = np.zeros((8, 1, 1000, 1))
    case = [np.asarray(x, np.float32) for x in case]  # the same numbers for both
    (_, exact), _ = moments(*case, eps, jnp.float64)
    (_, single), _ = moments(*case, eps, jnp.float32)
    deviation = np.sqrt(np.einsum("iitn->itn", exact.marginals.cov))
    error = np.abs(single.marginals.mean - exact.marginals.mean) / deviation
    assert error.mean() < allowed
    spread = np.sqrt(np.einsum("iitn->itn", single.marginals.cov)) / deviation
    assert np.abs(spread - 1).mean() < allowed
    np.testing.assert_allclose(single.log_normalizer, exact.log_normalizer, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 2000])
@pytest.mark.parametrize("noise", [1e-2, 1e-5])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_hard_cases_stay_finite(steps, noise, precision):
    case = hard_case(steps, noise, PRECISIONS[precision])
    eps = np.random.default_rng(1).normal(size=(8, 1, steps, 1))
    out = moments(*case, eps, jnp.float32)
    if precision == "zero":  # then nothing changes, exactly
        np.testing.assert_array_equal(out[0][1].log_normalizer, 0.0)
        np.testing.assert_array_equal(out[0][1].marginals.mean, 0.0)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(out))


def test_the_log_normaliser_of_a_long_chain_is_summed_with_care():
    """Equal terms, whose sum in any order of magnitude is known."""
    steps = 100_000
    zeros = jnp.zeros((1, 1, 1, 1))
    chain = Gaussian(zeros[0, 0], 1 + zeros[0]), Dynamics(zeros, zeros[0], 1 + zeros)
    ones = jnp.ones((1, steps, 1))
    q = gaussian_chain.smooth(*chain, ones, ones)
    expected = steps * (0.25 - 0.5 * np.log(2))
    np.testing.assert_allclose(q.log_normalizer, expected, rtol=3e-7)
