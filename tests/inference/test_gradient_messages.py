# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A conjugate factor that is sent through the general message gives the closed form."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.integrate import quad

import numpyro_svae as ns
from numpyro_svae.inference.local.gradient_messages import (
    VectorMoments,
    message_of,
    moments_of,
    narrowing,
    remains,
)
from tests.data import make_svi

KEY = random.PRNGKey(0)


def expected_values(values_at, moments, rule):
    """Expectations of a function of vectors."""
    points, weights = rule.points(moments.mean.shape[-1])
    values = [values_at(moments.mean + moments.tril @ e) for e in points]
    return jnp.tensordot(jnp.asarray(weights), jnp.stack(values), 1)


def factor_of(size, dim):
    """A weight, an offset, a covariance and data of a linear Gaussian observation."""
    keys = random.split(KEY, 4)
    root = random.normal(keys[2], (size, size))
    cov = root @ root.T + jnp.eye(size)
    offset, y = random.normal(keys[1], (size,)), random.normal(keys[3], (4, size))
    return random.normal(keys[0], (size, dim)), offset, cov, y


def moments(dim):
    """Means and covariances at four positions."""
    keys = random.split(random.PRNGKey(1), 2)
    root = random.normal(keys[1], (4, dim, dim))
    covariance = root @ jnp.swapaxes(root, -1, -2) + 0.1 * jnp.eye(dim)
    return VectorMoments(
        random.normal(keys[0], (4, dim)), jnp.linalg.cholesky(covariance)
    )


@pytest.mark.parametrize(
    "dim, rule",
    [
        (1, ns.Cubature()),
        (3, ns.Cubature()),
        (2, ns.Cubature("spherical")),
        (5, ns.Cubature("simplex")),
        (5, ns.Cubature()),
        (6, ns.Samples(20)),
        (6, ns.Samples(4)),
    ],
)
def test_message_of_a_conjugate_factor_is_the_closed_form(x64, dim, rule):
    weight, offset, cov, y = factor_of(3, dim)

    def values_at(x):
        return dist.MultivariateNormal(x @ weight.T + offset, cov).log_prob(y)

    def total(at):
        return jnp.sum(expected_values(values_at, at, rule))

    at = moments(dim)
    found = message_of(at, jax.jit(jax.grad(total))(at))
    pulled = jnp.linalg.solve(cov, weight).T
    np.testing.assert_allclose(found.info_vector, (y - offset) @ pulled.T, atol=1e-10)
    precision = jnp.broadcast_to(pulled @ weight, (4, dim, dim))
    np.testing.assert_allclose(found.precision, precision, atol=1e-10)
    np.testing.assert_allclose(remains(at, found, found), 0.0)
    expected = values_at(at.mean) - 0.5 * jnp.einsum(
        "ij,nik,njk->n", pulled @ weight, at.tril, at.tril
    )
    value = expected_values(values_at, at, rule)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_gradient_is_that_of_the_expectation(x64):
    """Of any factor, beside quadrature and finite differences of a covariance."""

    def log_f(x):
        return 3.0 * x - np.exp(x)

    def expected(mean, variance):
        def term(e):
            x = mean + np.sqrt(variance) * e
            return log_f(x) * np.exp(-0.5 * e * e) / np.sqrt(2 * np.pi)

        return quad(term, -12, 12, epsabs=1e-13)[0]

    at = VectorMoments(jnp.array([[0.3]]), jnp.sqrt(jnp.array([[[0.4]]])))

    def total(at):
        values = expected_values(lambda x: 3.0 * x - jnp.exp(x), at, ns.Cubature())
        return jnp.sum(values)

    np.testing.assert_allclose(total(at), expected(0.3, 0.4), rtol=1e-10)
    found = message_of(at, jax.jit(jax.grad(total))(at))
    step = 1e-4
    slope = (expected(0.3, 0.4 + step) - expected(0.3, 0.4 - step)) / (2 * step)
    np.testing.assert_allclose(found.precision[0, 0, 0], -2 * slope, rtol=1e-6)
    slope = (expected(0.3 + step, 0.4) - expected(0.3 - step, 0.4)) / (2 * step)
    info = slope + found.precision[0, 0, 0] * 0.3
    np.testing.assert_allclose(found.info_vector[0, 0], info, rtol=1e-6)


def test_negative_directions_are_left_out(x64):
    def values_at(x):
        return 0.5 * x[..., 0] ** 2 - 2.0 * x[..., 1] ** 2

    def total(at):
        return jnp.sum(expected_values(values_at, at, ns.Cubature()))

    at = VectorMoments(jnp.array([[1.0, 2.0]]), jnp.diag(jnp.array([2.0, 0.5]))[None])
    found = message_of(at, jax.jit(jax.grad(total))(at))
    expected = jnp.diag(jnp.array([0.0, 4.0]))
    np.testing.assert_allclose(found.precision[0], expected, atol=1e-12)
    np.testing.assert_allclose(found.info_vector[0], [1.0, 0.0], atol=1e-12)


def test_narrowing_halves_a_covariance(x64):
    mean, tril = at = moments(3)
    prior = dist.MultivariateNormal(mean, scale_tril=tril)
    np.testing.assert_allclose(moments_of(prior, (4,)).mean, mean)
    said = narrowing(at)
    cov = prior.covariance_matrix
    excess = jnp.broadcast_to(jnp.eye(3), cov.shape)
    np.testing.assert_allclose(said.precision @ cov, excess, atol=1e-9)
    pull = said.about(mean).info_vector
    np.testing.assert_allclose(pull, jnp.zeros_like(mean), atol=1e-9)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"rule": "monte"}, "'hermite', 'spherical', 'simplex'"),
        ({"num_points": 1}, "two or more"),
    ],
)
def test_rules_that_are_none(options, match):
    with pytest.raises(ValueError, match=match):
        ns.Cubature(**options)


@pytest.mark.parametrize("number", [0, 5])
def test_numbers_of_draws_that_are_none(number):
    with pytest.raises(ValueError, match="even numbers"):
        ns.Samples(number)


N, T, D, P = 3, 4, 2, 3
RNG = np.random.default_rng(0)
LOADING, Y = RNG.standard_normal((D, P)), RNG.standard_normal((N, T, P))


def path(y, general):
    """A path seen in noise: by a conjugate site, or by the same number."""
    with numpyro.plate("data", len(y)):
        eye = jnp.eye(D)
        chain = ns.LinearGaussianChain(
            jnp.ones(D), eye, 0.9 * eye, 0.2 * eye, num_steps=T
        )
        x = numpyro.sample("x", chain)
        fn = dist.Normal(x @ LOADING, 0.5).to_event(2)
        if general:
            numpyro.factor("y", fn.log_prob(y))
        else:
            numpyro.sample("y", fn, obs=y)


def vector(y, general):
    """Vectors at several positions, in a plate."""
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(jnp.ones((T, D)), 1.0).to_event(2))
        fn = dist.Normal(x @ LOADING, 0.5).to_event(2)
        if general:
            numpyro.factor("y", fn.log_prob(y))
        else:
            numpyro.sample("y", fn, obs=y)


@pytest.mark.parametrize("model", [path, vector])
def test_guide_of_a_factor_that_is_gaussian_is_that_of_the_conjugate_site(x64, model):
    guides = {general: ns.AutoSVAE(model) for general in (False, True)}
    losses, found = {}, {}
    for general, guide in guides.items():
        svi = make_svi(model, guide)
        state = svi.init(KEY, Y, general)
        losses[general] = svi.evaluate(state, Y, general)
        found[general] = guide.posterior_local({}, Y, general)["x"]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-10)
    np.testing.assert_allclose(found[True].mean, found[False].mean, atol=1e-9)
    np.testing.assert_allclose(found[True].variance, found[False].variance, rtol=1e-9)
    ended = guides[True].convergence({}, Y, True)["x"]
    assert ended.sweeps < 5 and ended.residual <= 1
    assert guides[False].convergence({}, Y, False) == {}
