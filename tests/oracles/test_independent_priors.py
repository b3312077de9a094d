# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Means, weights and noises of independent priors: closed forms and bounds."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import digamma
from scipy.stats import gamma, multivariate_normal

import numpyro_svae as ns
from tests.data import clusters, make_svi, steps
from tests.independent import (
    NOISE,
    known_noise,
    linear_regression,
    mean_and_precision,
    means_of_groups,
    mixture,
    mixture_of_factors,
    principal_components,
)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def inverse(matrix):
    return np.linalg.solve(matrix, np.eye(len(matrix)))


def lines(count=16):
    """Points near a line in three dimensions."""
    along = numbers(count, 1, seed=1) * jnp.array([2.0, -1.0, 0.5])
    return along + 0.3 + 0.2 * numbers(count, 3, seed=2)


def fitted(model, *args, count=60, natural=0.5, num_starts=1):
    guide = ns.AutoSVAE(model, num_starts=num_starts)
    svi = make_svi(model, guide, natural=natural)
    params, losses = steps(svi, count, *args)
    return guide, params, np.asarray(losses)


# known covariances


def test_weights_under_known_noise_are_the_dense_gaussian(x64):
    x, y = numbers(7, 2), numbers(7, 2, seed=1)
    guide, params, losses = fitted(known_noise, y, x, count=2, natural=1.0)
    found = guide.get_posterior(params)["weight"]
    precision = np.kron(inverse(NOISE), x.T @ x) + np.eye(4) / 4
    info = np.linalg.solve(NOISE, y.T @ x).reshape(-1) + 0.2 / 4
    mean = np.linalg.solve(precision, info).reshape(2, 2)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    variance = np.diag(inverse(precision)).reshape(2, 2)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-10)
    design = np.kron(x, np.eye(2))  # of y in program order, weight by columns
    cov = 4 * design @ design.T + np.kron(np.eye(7), NOISE)
    loc = 0.2 * design.sum(1)
    evidence = multivariate_normal(loc, cov).logpdf(np.ravel(y))
    np.testing.assert_allclose(losses[1], -evidence, rtol=1e-10)


def test_means_that_data_pick_are_those_of_each_group(x64):
    y, group = clusters(12)
    guide, params, losses = fitted(means_of_groups, y, group, count=2, natural=1.0)
    found = guide.get_posterior(params)["mu"]
    evidence = 0.0
    for k in range(3):
        own = np.asarray(y[group == k])
        precision = np.eye(2) / 4 + len(own) * inverse(NOISE)
        info = np.ones(2) / 4 + np.linalg.solve(NOISE, own.sum(0))
        np.testing.assert_allclose(
            found.mean[k], np.linalg.solve(precision, info), rtol=1e-10
        )
        np.testing.assert_allclose(
            found.covariance_matrix[k], inverse(precision), rtol=1e-10
        )
        ones = np.ones((len(own), len(own)))
        cov = np.kron(ones, 4 * np.eye(2)) + np.kron(np.eye(len(own)), NOISE)
        normal = multivariate_normal(np.ones(2 * len(own)), cov)
        evidence += normal.logpdf(own.reshape(-1))
    np.testing.assert_allclose(losses[1], -evidence, rtol=1e-10)


# independent noise


def test_mean_and_precision_satisfy_the_equations_of_mean_field(x64):
    y = 1.0 + numbers(9)
    guide, params, losses = fitted(mean_and_precision, y, count=80)
    posterior = guide.get_posterior(params)
    mu, tau = posterior["mu"], posterior["tau"]
    precision = 1 / 9 + len(y) * tau.mean
    np.testing.assert_allclose(mu.variance, 1 / precision, rtol=1e-10)
    mean = (0.5 / 9 + tau.mean * y.sum()) / precision
    np.testing.assert_allclose(mu.mean, mean, rtol=1e-10)
    squares = ((y - mu.mean) ** 2).sum() + len(y) * mu.variance
    np.testing.assert_allclose(tau.concentration, 2.0 + len(y) / 2, rtol=1e-10)
    np.testing.assert_allclose(tau.rate, 1.5 + squares / 2, rtol=1e-10)
    gap = -losses[-1] - evidence_of_numbers(y)
    assert -0.1 < gap < -1e-4  # a bound, and a tight one


def evidence_of_numbers(y):
    """The mean in closed form, the precision by quadrature."""
    y = np.asarray(y)

    def density(tau):
        cov = np.eye(len(y)) / tau + 9.0
        normal = multivariate_normal(0.5 * np.ones(len(y)), cov)
        return np.exp(normal.logpdf(y)) * gamma(2.0, scale=1 / 1.5).pdf(tau)

    return np.log(quad(density, 0, 20, epsabs=0, limit=200)[0])


def test_variances_learn_what_precisions_learn(x64):
    x = numbers(12, 2)
    y = x @ jnp.array([1.0, -2.0]) + 0.4 * numbers(12, seed=1)
    found = []
    for inverse in (False, True):
        model = partial(linear_regression, inverse=inverse)
        guide, params, losses = fitted(model, y, x, count=10)
        found.append((losses, guide.get_posterior(params)))
    (losses, precision), (other, variance) = found
    np.testing.assert_allclose(losses, other, rtol=1e-12)
    noise, inverse = precision["noise"], variance["noise"]
    np.testing.assert_allclose(noise.rate, inverse.rate, rtol=1e-12)
    np.testing.assert_allclose(noise.concentration, inverse.concentration, rtol=1e-12)


# convergence of simultaneous steps


@pytest.mark.parametrize("noise", ["shared", "matrix"])
def test_bounds_of_mixtures_rise_and_components_are_found(x64, noise):
    y, labels = clusters(30)
    guide, params, losses = fitted(partial(mixture, noise=noise), y, count=40)
    assert np.all(np.diff(losses) < 1e-9)
    centres = np.asarray(guide.get_posterior(params)["mu"].mean)
    truth = np.stack([np.asarray(y)[labels == k].mean(0) for k in range(3)])
    nearest = np.linalg.norm(truth[:, None] - centres, axis=-1).min(1)
    assert nearest.max() < 0.5


def test_loadings_of_each_component_are_found(x64):
    """They do not stay at zero, which is symmetric."""
    along = np.array([[1.0, 1.0], [1.0, -1.0]])
    group = np.arange(40) % 2
    y = jnp.array([[0.0, 0.0], [4.0, 1.0]])[group] + 0.1 * numbers(40, 2)
    y = y + numbers(40, 1, seed=1) * along[group]
    guide, params, losses = fitted(mixture_of_factors, y, count=30, num_starts=10)
    assert np.all(np.diff(losses) < 1e-9)
    found = np.asarray(guide.get_posterior(params)["w"].mean)[..., 0]
    cosines = np.abs(found @ along.T) / np.sqrt(2)
    cosines = cosines / np.linalg.norm(found, axis=-1, keepdims=True)
    assert np.all(np.max(cosines, 1) > 0.98) and np.all(np.max(cosines, 0) > 0.98)


@pytest.mark.slow
def test_unused_components_are_switched_off(x64):
    guide, params, losses = fitted(principal_components, lines(), count=300)
    assert np.all(np.diff(losses) < 1e-9)
    posterior = guide.get_posterior(params)
    alpha = np.sort(np.asarray(posterior["alpha"].mean))
    assert alpha[0] < 5 and alpha[1] > 20
    weight = np.asarray(posterior["w"].mean)
    best = weight[:, np.argmax(np.linalg.norm(weight, axis=0))]
    line = np.array([2.0, -1.0, 0.5])
    cosine = abs(best @ line) / np.linalg.norm(best) / np.linalg.norm(line)
    assert cosine > 0.98


def test_starts_do_not_matter_to_the_fixed_point(x64):
    """From a start far away, and with other steps, the same posterior."""
    x = numbers(12, 2)
    y = x @ jnp.array([1.0, -2.0]) + 0.4 * numbers(12, seed=1)
    near, params, _ = fitted(linear_regression, y, x, count=100)
    expected = near.get_posterior(params)
    far = {"w": ns.families.GaussianNatural(jnp.full((1, 2), 9.0), jnp.eye(2)[None])}
    guide = ns.AutoSVAE(linear_regression, init=far)
    params, _ = steps(make_svi(linear_regression, guide, natural=0.3), 200, y, x)
    found = guide.get_posterior(params)
    for name in ("w", "b", "noise"):
        np.testing.assert_allclose(found[name].mean, expected[name].mean, rtol=1e-8)


# gradients


@pytest.mark.parametrize("block", ["w", "alpha", "tau", "b"])
def test_natural_gradients_are_those_of_finite_differences(x64, block):
    """Fisher information times the natural gradient is the slope of the loss."""
    _, params, loss, gradient = at_a_start()
    name = f"{block}_auto_natural"
    eta, natural = params[name], gradient[name]
    _, ordinary = jax.jvp(lambda e: e.expected_statistics(), (eta,), (natural,))
    direction = jax.tree.map(lambda leaf: jnp.cos(1.0 + 0.1 * leaf), eta)
    if hasattr(direction, "precision"):
        wide = direction.precision
        precision = 0.01 * (wide + jnp.swapaxes(wide, -1, -2))
        direction = type(eta)(direction.info_vector, precision)
    step = 1e-5

    def moved(sign):
        return loss({**params, name: eta + direction.scale(sign * step)})

    slope = (moved(1.0) - moved(-1.0)) / (2 * step)
    expected = jnp.sum(ordinary.inner(direction))
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


_START = {}


def at_a_start():
    if not _START:
        y, model = lines(), partial(principal_components, dim=2)
        guide = ns.AutoSVAE(model, num_starts=1)
        svi = make_svi(model, guide)
        params = svi.get_params(svi.init(random.PRNGKey(0), y))
        best = params["alpha_auto_natural"]  # given the weights that are started from
        params["alpha_auto_natural"] = ns.families.GammaNatural(
            best.concentration, 1.3 * best.rate
        )

        def loss(params):
            elbo = ns.SVAE_ELBO()
            return elbo.loss(random.PRNGKey(0), params, model, guide, y)

        gradient = jax.jit(jax.grad(loss))(params)
        _START["found"] = guide, params, jax.jit(loss), gradient
    return _START["found"]


def test_expected_divergence_of_scaled_weights(x64):
    """That of the weights from their prior, averaged over draws of its precisions."""
    guide, params, *_ = at_a_start()
    posterior = guide.get_posterior(params)
    alpha, w = posterior["alpha"].base_dist, posterior["w"]
    elbo = ns.SVAE_ELBO(sum_sites=False)
    model = partial(principal_components, dim=2)
    terms = elbo.loss(random.PRNGKey(0), params, model, guide, lines())
    log_alpha = digamma(alpha.concentration) - np.log(alpha.rate)
    squares = np.asarray(w.mean**2 + w.variance).sum(0)
    rows = w.mean.shape[0]
    expected = 0.5 * (rows * (log_alpha - np.log(2 * np.pi)) - alpha.mean * squares)
    entropy = w.base_dist.entropy().sum()
    np.testing.assert_allclose(terms["w"], -entropy - expected.sum(), rtol=1e-10)
