# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Lanes-last linear algebra against numpy, in each of its implementations."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from numpyro_svae.blocks import elimination, linalg

pytestmark = pytest.mark.x64
SIZES = [1, 3, 17, 22]  # beyond twice MOST_TERMS, and beyond MAX_UNROLLED
LANES = 4
MANY_LANES = 70  # beyond linalg.MANY_LANES


def random(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def spd(size: int, lanes: int = LANES) -> jax.Array:
    a = random(size, size, size, lanes)
    return jnp.einsum("ikn,jkn->ijn", a, a) + jnp.eye(size)[..., None]


def first(x: jax.Array) -> np.ndarray:
    """Batch first, as numpy has it."""
    return np.moveaxis(np.asarray(x), -1, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lanes", [(1, LANES), (LANES, LANES), (1, MANY_LANES)])
def test_products(size, lanes):
    a, b = random(0, 2, size, lanes[0]), random(1, size, 5, lanes[1])
    np.testing.assert_allclose(first(linalg.matmul(a, b)), first(a) @ first(b))
    check_grads(jax.jit(linalg.matmul), (a, b), 1, modes="rev")
    x = b[:, 0]
    expected = first(a) @ first(x)[..., None]
    np.testing.assert_allclose(first(linalg.matvec(a, x)), expected[..., 0])


@pytest.mark.parametrize("lanes", [LANES, MANY_LANES])
def test_a_product_may_have_no_rows(lanes):
    """As of noise in no direction."""
    a, b = random(0, 0, 3, lanes), random(1, 3, 5, lanes)
    assert linalg.matmul(a, b).shape == (0, 5, lanes)
    assert not jnp.any(jax.grad(lambda b: jnp.sum(linalg.matmul(a, b)))(b))


def test_sums_have_the_gradient_of_what_they_are_sums_of():
    """Also where one of the two is shared by the lanes."""
    x, y = random(0, 3, LANES), random(1, 3, 1)
    np.testing.assert_allclose(linalg.dot(x, y), jnp.sum(x * y, 0))
    check_grads(jax.jit(linalg.dot), (x, y), 1, modes="rev")
    tril = jnp.abs(random(2, 3, 3, LANES)) + 0.5
    expected = np.linalg.slogdet(np.tril(first(tril)))[1]
    np.testing.assert_allclose(linalg.log_diagonal(tril), expected)
    check_grads(jax.jit(linalg.log_diagonal), (tril,), 1, modes="rev")


@pytest.mark.parametrize(
    ("size", "lanes"), [*((s, LANES) for s in SIZES), (3, MANY_LANES)]
)
def test_cholesky_and_solves(size, lanes):
    a, b = spd(size, lanes), random(1, size, 2, lanes)
    factor = elimination.cholesky(a)
    np.testing.assert_allclose(first(factor), np.linalg.cholesky(first(a)), rtol=1e-7)
    lower = elimination.solve_lower(factor, b)
    upper = elimination.solve_lower_transposed(factor, lower)
    solution = np.linalg.solve(first(a), first(b))
    np.testing.assert_allclose(first(upper), solution, rtol=1e-7)
    solved, log_det = elimination.solve_posdef(a, b)
    np.testing.assert_allclose(first(solved), solution, rtol=1e-7)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(first(a))[1])


@pytest.mark.parametrize("lanes", [LANES, MANY_LANES])
def test_a_solution_has_the_precision_of_the_finer_of_two(lanes):
    factor, b = elimination.cholesky(spd(3, lanes)), random(1, 3, 2, lanes)
    assert elimination.solve_lower(factor, b.astype(jnp.float32)).dtype == b.dtype


@pytest.mark.parametrize("size", [1, 3])
def test_gradients(size):
    a, b = random(0, size, size, LANES), random(1, size, 2, LANES)

    def through(a, b):
        factor = elimination.cholesky(linalg.matmul(a, linalg.transpose(a)) + eye)
        lower = elimination.solve_lower(factor, b)
        return factor, lower, elimination.solve_lower_transposed(factor, b)

    eye = linalg.eye(a)
    check_grads(jax.jit(through), (a, b), 1, modes="rev")
    check_grads(
        jax.jit(lambda a, b: through(a, b)[1:]), (a[..., :1], b), 1, modes="rev"
    )


@pytest.mark.parametrize(
    ("size", "lanes"), [(3, MANY_LANES), *((s, LANES) for s in (3, 22, 45))]
)
def test_semidefinite_factor(size, lanes):
    half = random(0, size, 2, lanes)
    a = jnp.einsum("ikn,jkn->ijn", half, half)
    b = linalg.matvec(half, random(1, 2, lanes))
    u, w = elimination.semidefinite_factor(a, b)
    np.testing.assert_allclose(linalg.matmul(u, linalg.transpose(u)), a, atol=1e-12)
    np.testing.assert_allclose(linalg.matvec(u, w), b, atol=1e-7)
    zero = jnp.zeros_like(a)
    u, w = elimination.semidefinite_factor(zero, jnp.zeros_like(b))
    assert not jnp.any(u) and not jnp.any(w)


def test_almost_singular_matrices_have_finite_factors():
    a = jnp.ones((4, 4, 2)) - 1e-18 * jnp.eye(4)[..., None]
    total = jax.jit(jax.value_and_grad(lambda a: elimination.cholesky(a).sum()))
    assert all(jnp.all(jnp.isfinite(x)) for x in total(a))
    assert jnp.all(jnp.isfinite(jax.jit(elimination.solve_posdef)(a, a)[0]))


@pytest.mark.parametrize("rank", [1, 3, 23])
@pytest.mark.parametrize("shift", [0.0, 1.0, 100.0])
def test_large_singular_matrices_have_accurate_factors_in_single_precision(rank, shift):
    half = (shift + random(rank, 24, rank, 300)).astype(jnp.float32)
    a = jnp.einsum("ikn,jkn->ijn", half, half)
    factor = elimination.cholesky(a)
    assert factor.dtype == jnp.float32
    lifted = np.einsum("ikn,jkn->ijn", *2 * [np.asarray(factor, float)])
    deviation = np.sqrt(np.einsum("iin->in", a))
    scale = deviation[:, None] * deviation
    error, largest = (lifted - a) / scale, np.linalg.eigvalsh(first(a / scale))[:, -1]
    rounding = np.finfo(np.float32).eps * largest
    assert np.all(np.max(np.abs(error), (0, 1)) < 4 * rounding)


def test_a_kernel_adds_up_few_products():
    """With jax 0.12 one of sixteen takes thirty times as long as two of eight."""
    a = jnp.ones((17, 17, MANY_LANES))
    program = jax.make_jaxpr(linalg._sum_of_products)(a, a)
    assert str(program).count("optimization_barrier") == 2  # between 8, 8 and 1
