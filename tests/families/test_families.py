# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Log normalisers, expected statistics and natural-gradient reads of the families."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.families import (
    DirichletNatural,
    GammaNatural,
    GaussianNatural,
    RegressionNatural,
    expected,
    gaussian_kl,
    natural_kl,
)
from numpyro_svae.families.matrices import cholesky, inverse_from_tril, solve_tril


def random_regression(seed, dim=3, columns=2, batch=(2,)):
    keys = jax.random.split(jax.random.PRNGKey(seed), 4)
    wide = jax.random.normal(keys[0], (*batch, columns, 2 * columns))
    tall = jax.random.normal(keys[1], (*batch, dim, 2 * dim))
    scale_tril = jnp.linalg.cholesky(tall @ jnp.swapaxes(tall, -1, -2))
    loc = jax.random.normal(keys[2], (*batch, dim, columns))
    df = dim + 2.0 + jax.random.uniform(keys[3], batch)
    precision = wide @ jnp.swapaxes(wide, -1, -2)
    return RegressionNatural.from_standard(loc, precision, scale_tril, df)


def random_dirichlet(seed, batch=(2,)):
    key = jax.random.PRNGKey(seed)
    return DirichletNatural(0.3 + jax.random.uniform(key, (*batch, 4)))


def random_gamma(seed, batch=(2,)):
    keys = jax.random.split(jax.random.PRNGKey(seed))
    return GammaNatural(*(0.3 + jax.random.uniform(key, batch) for key in keys))


def random_gaussian(seed, batch=(2,)):
    keys = jax.random.split(jax.random.PRNGKey(seed))
    wide = jax.random.normal(keys[0], (*batch, 3, 6))
    precision = wide @ jnp.swapaxes(wide, -1, -2)
    return GaussianNatural.from_mean(jax.random.normal(keys[1], (*batch, 3)), precision)


def random_covariance(seed):
    """An inverse-Wishart: a regression on nothing."""
    return random_regression(seed, columns=0)


FAMILIES = [
    random_regression,
    random_dirichlet,
    random_gamma,
    random_gaussian,
    random_covariance,
]


def assert_trees_close(actual, desired, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, desired
    )


def symmetric(tree):
    if isinstance(tree, RegressionNatural):
        vv, uu = (0.5 * (x + jnp.swapaxes(x, -1, -2)) for x in (tree.vv, tree.uu))
        return RegressionNatural(vv, tree.vu, uu, tree.df)
    if isinstance(tree, GaussianNatural):
        precision = tree.precision
        precision = 0.5 * (precision + jnp.swapaxes(precision, -1, -2))
        return GaussianNatural(tree.info_vector, precision)
    return tree


@pytest.mark.parametrize("make", FAMILIES)
def test_gradient_of_log_normalizer_is_expected_statistics(make, x64):
    eta = make(0)
    gradient = symmetric(jax.jit(jax.grad(lambda e: e.log_normalizer().sum()))(eta))
    assert_trees_close(gradient, eta.expected_statistics(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", FAMILIES)
def test_kl_is_the_bregman_divergence_of_the_log_normalizer(make, x64):
    q, p = make(0), make(1)
    bregman = (q - p).inner(q.expected_statistics())
    bregman = bregman - q.log_normalizer() + p.log_normalizer()
    np.testing.assert_allclose(q.kl(p), bregman, rtol=1e-9)
    np.testing.assert_allclose(q.kl(q), 0.0, atol=1e-10)


@pytest.mark.parametrize("make", FAMILIES)
def test_read_gives_the_natural_gradient(make, x64):
    """Fisher information times the read's gradient is the ordinary gradient."""
    eta = make(0)

    def objective(moments):
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(moments))

    natural = jax.jit(jax.grad(lambda e: objective(expected(e))))(eta)
    ordinary = symmetric(jax.jit(jax.grad(lambda e: objective(e.moments())))(eta))
    _, fisher_times = jax.jvp(lambda e: e.expected_statistics(), (eta,), (natural,))
    assert_trees_close(fisher_times, ordinary, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("make", FAMILIES)
def test_kl_has_natural_gradient_for_q_and_plain_for_p(make, x64):
    q, p = make(0), make(1)
    to_q, to_p = jax.jit(jax.grad(lambda a, b: natural_kl(a, b).sum(), (0, 1)))(q, p)
    assert_trees_close(to_q, q - p, rtol=1e-12)
    plain = symmetric(jax.jit(jax.grad(lambda b: q.kl(b).sum()))(p))
    assert_trees_close(to_p, plain, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("make", FAMILIES)
def test_a_divergence_takes_log_gammas_at_once(make):
    """They were most of what there is to compile, with JAX 0.12."""
    program = str(jax.make_jaxpr(make(0).kl)(make(1)))
    assert program.count(" lgamma ") == (make is not random_gaussian)


@pytest.mark.parametrize("make", FAMILIES)
def test_largest_step_reaches_the_boundary_and_not_beyond(make, x64):
    eta, other = make(0), make(1)
    direction = eta.scale(-1.0) + (eta - other).scale(0.5)
    step = eta.largest_step(direction)
    assert np.all(np.isfinite(step)) and np.all(step > 0)
    inside = eta + direction.scale(0.999 * step)
    outside = eta + direction.scale(1.001 * step)
    assert np.all(np.isfinite(inside.log_normalizer()))
    assert np.all(inside.has_density())
    shown = jax.tree.leaves(outside.moments())
    finite = [np.isfinite(x).reshape(*step.shape, -1).all(-1) for x in shown]
    assert not np.any(outside.has_density() & np.all(finite, 0))
    if make is random_dirichlet:
        assert np.all(outside.concentration.min(-1) < 0)
    elif make is random_gamma:
        assert np.all(np.minimum(outside.concentration, outside.rate) < 0)
    elif make is random_gaussian:
        assert np.all(jnp.linalg.eigvalsh(outside.precision)[..., 0] < 0)
    else:
        lowest = jnp.linalg.eigvalsh(outside.joint())[..., 0]
        assert np.all((lowest < 0) | (outside.df < outside.vv.shape[-1] - 1))
    assert np.all(np.isinf(eta.largest_step(eta)))
    nearer, further = 0.9 * float(step.min()), 1.1 * float(step.max())
    assert np.all(eta.largest_step(direction, nearer) >= nearer)
    np.testing.assert_allclose(eta.largest_step(direction, further), step, rtol=1e-9)


def test_degrees_of_freedom_end_where_no_matrix_shows_it():
    eta = random_regression(0, dim=3)
    few = replace(eta, df=jnp.array([2.1, 1.9]))
    assert all(np.all(np.isfinite(x)) for x in few.moments()[:3])
    np.testing.assert_array_equal(few.has_density(), [True, False])


def test_kl_from_a_gaussian_that_is_given_by_its_mean(x64):
    q, p = random_gaussian(0), random_gaussian(1)
    mean, precision = p.moments().mean, p.precision

    def plain(natural, mean, precision):
        return jnp.sum(natural.kl(GaussianNatural.from_mean(mean, precision)))

    found, pull = jax.vjp(gaussian_kl, q, mean, precision)
    np.testing.assert_allclose(found, q.kl(p), rtol=1e-10)
    to_q, *rest = pull(jnp.ones(2))
    jax.tree.map(np.testing.assert_allclose, to_q, q - p)
    expected = jax.grad(plain, (1, 2))(q, mean, precision)
    for own, other in zip(rest, expected):
        other = 0.5 * (other + jnp.swapaxes(other, -1, -2)) if other.ndim > 2 else other
        np.testing.assert_allclose(own, other, rtol=1e-8, atol=1e-10)


def test_gradients_of_that_keep_their_digits_far_from_zero():
    """In single precision, of Gaussians at 1000 whose means differ by about one."""
    at, shift = jnp.full(3, 1000.0), jnp.array([0.5, -1.0, 2.0])
    precision = random_gaussian(1, ()).precision
    q = GaussianNatural.from_mean(at, 4.0 * jnp.eye(3))

    def kl(precision):
        return gaussian_kl(q, at + shift, precision)

    covariance = np.linalg.solve(np.float64(precision), np.eye(3))
    expected = 0.5 * (np.eye(3) / 4 + np.outer(shift, shift) - covariance)
    np.testing.assert_allclose(jax.grad(kl)(precision), expected, atol=1e-3)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_steps_end_where_no_digits_are_left_and_come_back(size):
    """Steps that always lead to the boundary do not reach it in float32."""
    scale = jnp.array([size, 1.0, 1.0 / size])
    shape = jnp.array([[2.0, 0.5, 0.3], [0.5, 1.0, -0.2], [0.3, -0.2, 1.5]])
    along = scale * jnp.array([0.6, -0.64, 0.48])
    eta = GaussianNatural(scale, scale[:, None] * shape * scale)
    outward = GaussianNatural(jnp.zeros(3), -along[:, None] * along)
    for _ in range(30):
        eta = eta + outward.scale(0.9 * eta.largest_step(outward, 1e3))
    exact = np.linalg.solve(np.asarray(eta.precision, np.float64), np.eye(3))
    found = eta.moments().covariance * (scale[:, None] * scale)
    np.testing.assert_allclose(found, exact * (scale[:, None] * scale), rtol=0.2)
    assert np.max(found) > 1e4
    assert eta.largest_step(outward.scale(-1.0), 2.0) == 2.0


def test_standard_round_trip_and_one_observation(x64):
    eta = random_regression(3, batch=())
    standard = eta.to_standard()
    again = RegressionNatural.from_standard(
        standard.loc,
        standard.column_tril @ standard.column_tril.T,
        standard.scale_tril,
        standard.df,
    )
    assert_trees_close(again, eta, rtol=1e-10)
    v, u = jnp.arange(3.0), jnp.array([1.0, -2.0])
    seen = RegressionNatural.observe(v, u, 2.0)
    np.testing.assert_allclose(seen.vu, 2 * jnp.outer(v, u))
    np.testing.assert_allclose(seen.df, 2.0)


def test_a_matrix_of_one_entry_is_a_number(x64):
    """A mean has a column precision of one entry, and each call of a library waits."""
    numbers = jnp.array([4.0, 0.0, -1.0, jnp.nan, jnp.inf])[:, None, None]
    np.testing.assert_array_equal(cholesky(numbers), jnp.linalg.cholesky(numbers))
    tril, right = jnp.array([[2.0]]), jnp.array([[3.0, 5.0]])
    np.testing.assert_array_equal(solve_tril(tril, right), right / 2)
    np.testing.assert_array_equal(solve_tril(tril, right, trans=True), right / 2)
    np.testing.assert_array_equal(inverse_from_tril(tril), [[0.25]])
    q, p = (random_regression(seed, dim=1, columns=1) for seed in range(2))

    def all_of_it(q, p):
        return q.moments(), q.witness(), q.kl(p), q.largest_step(p, 1.0)

    text = jax.jit(all_of_it).lower(q, p).as_text()
    assert "custom_call" not in text.partition("eigh")[0]
    assert "custom_call" in jax.jit(jnp.linalg.cholesky).lower(tril).as_text()


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_a_witness_is_finite_where_the_moments_are(columns):
    """What is asked of a step that has landed, in float32, at the ends of its range."""
    good = random_regression(0, columns=columns, batch=())
    sizes = jnp.array([1e-44, 1e-39, 3e-38, 1e-37, 1e-20, 1.0, 1e19, 1e37, jnp.inf])
    nearly = jnp.array([2.0, 2.0 + 1e-6, jnp.nan, 3e38])
    many = [
        *(replace(good, uu=x * good.uu, vu=x * good.vu) for x in sizes),
        *(replace(good, vv=x * good.vv, vu=0.0 * good.vu) for x in sizes),
        *(replace(good, df=x) for x in nearly),
        replace(good, vv=-good.vv),
        good.scale(jnp.nan),
    ]
    counts = jnp.array([1e-44, 1e-39, 1e-37, 0.0, 1.0, 2e38, jnp.inf, jnp.nan])
    many += [DirichletNatural(jnp.array([x, 2e38])) for x in counts]
    many += [DirichletNatural(jnp.array([x, 1.0])) for x in counts]
    found = []
    for natural in many:
        moments = natural.expected_statistics()
        if isinstance(natural, RegressionNatural):
            moments = natural.moments()
        found.append((all_finite(natural.witness()), all_finite(moments)))
    assert [witness for witness, _ in found] == [moments for _, moments in found]
    assert {True, False} == {witness for witness, _ in found}


def all_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))
