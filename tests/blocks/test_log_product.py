# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Products in logarithms against log-sum-exp, also where exponentials round to zero."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
import numpy as np
import pytest

from numpyro_svae.blocks import discrete_chain
from numpyro_svae.blocks.log_product import LogMatrix, log_product

SIZE, BATCH = 4, 3


def case(spread, batched, seed=0):
    rng = np.random.default_rng(seed)
    shape = (BATCH, SIZE, SIZE) if batched else (SIZE, SIZE)
    matrix = spread * rng.standard_normal(shape)
    return matrix, spread * rng.standard_normal((BATCH, SIZE))


def plain(matrix, vector):
    return logsumexp(matrix + vector[..., None, :], -1)


def ours(matrix, vector):
    return log_product(LogMatrix.of(matrix), vector)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_values_and_gradients(spread, batched):
    """With a spread of 300, every exponential of some sums is zero in float32."""
    matrix, vector = (jnp.asarray(x, jnp.float32) for x in case(spread, batched))
    weights = jnp.asarray(np.random.default_rng(1).random((BATCH, SIZE)), jnp.float32)

    def loss(product):
        return lambda *args: jnp.sum(weights * product(*args))

    np.testing.assert_allclose(ours(matrix, vector), plain(matrix, vector), rtol=1e-5)
    found = jax.jit(jax.grad(loss(ours), (0, 1)))(matrix, vector)
    expected = jax.grad(loss(plain), (0, 1))(matrix, vector)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_second_derivatives_of_a_loop(x64):
    matrix, vector = map(jnp.asarray, case(1.0, False))

    def loss(product):
        def value(vector):
            def step(x, _):
                x = product(matrix, x)
                return x, x

            return jnp.sum(jax.lax.scan(step, vector, length=3)[1] ** 2)

        return value

    found, expected = (
        jax.jacrev(jax.grad(loss(product)))(vector) for product in (ours, plain)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_what_is_impossible():
    matrix = jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])
    vector = jnp.array([1.0, 2.0])
    np.testing.assert_array_equal(ours(matrix, vector), [1.0, -jnp.inf])
    slopes = jax.grad(lambda *a: ours(*a)[0], (0, 1))(matrix, vector)
    np.testing.assert_array_equal(slopes[0], [[1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(slopes[1], [1.0, 0.0])


def test_a_chain_whose_only_paths_are_all_but_impossible():
    """Sharp transitions against sharper potentials, in float32 and in float64."""
    rng = np.random.default_rng(0)
    initial, steps = np.zeros(3), -200 * (1 - np.eye(3))[None]
    said = 150 * rng.standard_normal((8, 3))
    with jax.enable_x64(True):
        exact = discrete_chain.smooth(*map(jnp.asarray, (initial, steps, said)))
    rough = discrete_chain.smooth(
        *(jnp.asarray(x, jnp.float32) for x in (initial, steps, said))
    )
    np.testing.assert_allclose(rough.probs, exact.probs, atol=1e-4)
    np.testing.assert_allclose(
        rough.transition_probs, exact.transition_probs, atol=1e-4
    )
    np.testing.assert_allclose(rough.log_normalizer, exact.log_normalizer, rtol=1e-5)
