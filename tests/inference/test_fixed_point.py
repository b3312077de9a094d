# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Fixed points of maps that are known, and what happens where there is no adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.inference.local.adjoint import solve_adjoint
from numpyro_svae.inference.local.fixed_point import (
    FixedPoint,
    adjoint_is_found,
    solve_fixed_point,
)

MATRIX = np.array([[0.3, -0.6], [0.5, 0.2]])
OPTIONS = FixedPoint(tolerance=1e-13, anneal=0, max_sweeps=500)


@pytest.mark.parametrize("scale", [0.2, 1.0, -3.0], ids=["near", "slow", "diverges"])
def test_adjoint_of_a_linear_map(x64, scale):
    """The series of the first converges at once, and that of the last not at all."""
    matrix, g = scale * MATRIX.T, jnp.array([1.0, -2.0])
    found, good = solve_adjoint(lambda v: matrix @ v, g)
    assert good
    np.testing.assert_allclose(found, np.linalg.solve(np.eye(2) - matrix, g))


def test_an_adjoint_whose_series_converges_takes_few_products(x64):
    count = 0

    def pull(v):
        def add():
            nonlocal count
            count += 1

        jax.debug.callback(add)
        return 1e-3 * v

    jax.block_until_ready(solve_adjoint(pull, jnp.ones(3)))
    jax.effects_barrier()
    assert 0 < count < 4


def test_the_product_with_the_jacobian_is_compiled_once():
    """It is the derivative of a sweep, and so most of what is compiled."""

    def solve(g):
        return solve_adjoint(lambda v: 0.1 * jnp.flip(v), g)[0]

    compiled = jax.jit(solve).lower(jnp.ones(3)).compile()
    assert compiled.as_text().count(" reverse(") == 1


@pytest.mark.parametrize("size", [40, 300])
def test_adjoint_of_many_unknowns(x64, size):
    """More than the directions that are kept; eigenvalues up to 0.8 in modulus."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(size, size))
    matrix *= 0.8 / np.abs(np.linalg.eigvals(matrix)).max()
    g = jnp.asarray(rng.normal(size=size))
    found, good = solve_adjoint(lambda v: matrix @ v, g)
    assert good
    exact = np.linalg.solve(np.eye(size) - matrix, g)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-8)


def test_gradients_of_gradients(x64):
    def value(a):
        solution = solve_fixed_point(
            lambda y: jnp.tanh(0.2 * MATRIX @ y) + a, jnp.zeros(2), OPTIONS
        )
        return jnp.sum(jnp.sin(solution.value))

    slope, at, step = jax.grad(value), jnp.array([0.3, 0.5]), 1e-5
    pairs = [
        (slope(at + step * e) - slope(at - step * e)) / (2 * step) for e in np.eye(2)
    ]
    np.testing.assert_allclose(jax.jacrev(slope)(at), np.stack(pairs, -1), atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, np.nan])
def test_one_sweep_takes_the_place_of_an_adjoint_that_is_not_found(x64, scale):
    """``v = g + v`` has no solution, nor has a sweep with a NaN in its derivative."""
    g = jnp.array([1.0, -2.0])
    found, good = solve_adjoint(lambda v: scale * v, g)
    assert not good
    np.testing.assert_array_equal(found, g)


def test_it_says_whether_the_adjoint_is_found(x64):
    y = {"y": jnp.ones(2)}
    assert adjoint_is_found(lambda y: {"y": MATRIX @ y["y"]}, y)
    assert not adjoint_is_found(lambda y: {"y": y["y"] + 1.0}, y)


def test_oscillations_are_damped(x64):
    """Undamped, ``y <- 1 - 1.2 y`` runs away."""
    solution = solve_fixed_point(lambda y: 1.0 - 1.2 * y, jnp.zeros(1), OPTIONS)
    assert solution.residual <= 1
    np.testing.assert_allclose(solution.value, 1 / 2.2)


def test_gradients_reach_what_a_sweep_closes_over(x64):
    """A mask and a whole number among it have none."""

    @jax.jit
    def value(a, mask, shift):
        def sweep(y):
            return jnp.where(mask, MATRIX @ y + a, shift)

        return jnp.sum(solve_fixed_point(sweep, jnp.zeros(2), OPTIONS).value)

    mask, shift = jnp.array([True, True]), jnp.array(2)
    slope = jax.jit(jax.grad(value))(jnp.ones(2), mask, shift)
    expected = np.linalg.solve(np.eye(2) - MATRIX.T, np.ones(2))
    np.testing.assert_allclose(slope, expected, rtol=1e-8)
