# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Likelihoods that are not conjugate, of vectors and paths without a network."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns

KEY = random.PRNGKey(0)
EXACT = ns.FixedPoint(max_sweeps=300, tolerance=1e-20)


def loss_of(guide, model, *args, params=None):
    """The loss of a guide, which is found without samples."""
    return ns.SVAE_ELBO().loss(KEY, params or {}, model, guide, *args)


def as_gaussian(flat, dim):
    """A mean, and a Cholesky factor that any numbers make."""
    lower = jnp.zeros((dim, dim)).at[jnp.tril_indices(dim)].set(flat[dim:])
    diagonal = jnp.exp(jnp.diagonal(lower))
    return flat[:dim], jnp.tril(lower, -1) + jnp.diag(diagonal)


def best_gaussian(bound_of, dim):
    """The Gaussian that makes a bound largest, by a black box."""

    @jax.jit
    @jax.value_and_grad
    def loss(flat):
        return -bound_of(*as_gaussian(flat, dim))

    start = np.zeros(dim + dim * (dim + 1) // 2)
    found = minimize(lambda x: jax.device_get(loss(x)), start, jac=True, tol=1e-12)
    return (found.fun, *as_gaussian(jnp.asarray(found.x), dim))


def test_path_has_the_best_gaussian(x64):
    """A path of numbers, of which counts are seen."""
    steps, counts = 4, jnp.array([[0.0, 3.0, 7.0, 1.0]])

    def model(y):
        one = jnp.eye(1)
        with numpyro.plate("data", 1):
            chain = ns.LinearGaussianChain(
                jnp.array([0.5]), one, 0.9 * one, 0.3 * one, num_steps=steps
            )
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Poisson(jnp.exp(x[..., 0])).to_event(1), obs=y)

    guide = ns.AutoSVAE(model, fixed_point=EXACT)
    loss = loss_of(guide, model, counts)
    found = guide.posterior_local({}, counts)["x"]
    lower = jnp.tril(0.9 ** jnp.abs(jnp.subtract.outer(*2 * [jnp.arange(steps)])))
    noise = jnp.diag(jnp.array([1.0, 0.3, 0.3, 0.3]))
    prior = dist.MultivariateNormal(lower[:, 0] * 0.5, lower @ noise @ lower.T)

    def bound(mean, tril):
        variance = jnp.sum(tril**2, -1)
        terms = counts[0] * mean - jnp.exp(mean + 0.5 * variance)
        terms = terms - jax.scipy.special.gammaln(counts[0] + 1)
        own = dist.MultivariateNormal(mean, scale_tril=tril)
        return jnp.sum(terms) - dist.kl_divergence(own, prior)

    expected, mean, tril = best_gaussian(bound, steps)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(found.mean[0, :, 0], mean, atol=1e-5)
    variance = jnp.sum(tril**2, -1)
    np.testing.assert_allclose(found.variance[0, :, 0], variance, rtol=1e-5)


LOADING = np.random.default_rng(0).standard_normal((2, 5))


def logistic(y):
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(jnp.zeros(2), 2.0).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ LOADING).to_event(1), obs=y)


def test_vector_has_the_best_gaussian(x64):
    y = jnp.array([[0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
    guide = ns.AutoSVAE(logistic, fixed_point=EXACT)
    loss = loss_of(guide, logistic, y)
    found = guide.posterior_local({}, y)["x"]
    points, weights = ns.Cubature().points(2)
    total = 0.0
    for i in range(2):

        def bound(mean, tril, y=y[i]):
            logits = (mean + points @ tril.T) @ LOADING
            terms = dist.Bernoulli(logits=logits).log_prob(y)
            own = dist.MultivariateNormal(mean, scale_tril=tril)
            prior = dist.MultivariateNormal(jnp.zeros(2), 4.0 * jnp.eye(2))
            return jnp.sum(weights @ terms) - dist.kl_divergence(own, prior)

        value, mean, tril = best_gaussian(bound, 2)
        total += value
        np.testing.assert_allclose(found.mean[i], mean, atol=1e-5)
        covariance = found.covariance_matrix[i]
        np.testing.assert_allclose(covariance, tril @ tril.T, atol=1e-5)
    np.testing.assert_allclose(loss, total, rtol=1e-6)


def test_posterior_means_and_evidence_beside_quadrature(x64):
    """Of numbers with binary data, where no Gaussian is exact."""
    y = jnp.array([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])

    def model(y):
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(jnp.zeros(1), 1.5).to_event(1))
            logits = x * jnp.array([1.0, -0.5, 2.0])
            numpyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)

    guide = ns.AutoSVAE(model)
    loss = loss_of(guide, model, y)
    mean = guide.posterior_local({}, y)["x"].mean[:, 0]
    x = jnp.linspace(-12, 12, 4001)
    logits = x[:, None] * jnp.array([1.0, -0.5, 2.0])
    log_joint = dist.Normal(0.0, 1.5).log_prob(x)[:, None] + jnp.sum(
        dist.Bernoulli(logits=logits[:, None]).log_prob(y), -1
    )
    density = jnp.exp(log_joint) * (x[1] - x[0])
    evidence = jnp.sum(density, 0)
    exact = jnp.sum(x[:, None] * density, 0) / evidence
    np.testing.assert_allclose(mean, exact, rtol=0.03)
    gap = loss + jnp.sum(jnp.log(evidence))
    assert 0 < gap < 0.05


def poisson_system(y):
    """Rotations that are seen as counts; the loading is learnt."""
    loading = numpyro.param("loading", 0.4 * np.resize(LOADING, (3, 10)))
    with numpyro.plate("data", len(y)):
        turn = jnp.array([[0.98, -0.15, 0.0], [0.15, 0.98, 0.0], [0.0, 0.0, 0.9]])
        eye = jnp.eye(3)
        x = numpyro.sample(
            "x",
            ns.LinearGaussianChain(jnp.zeros(3), eye, turn, 0.05 * eye, num_steps=20),
        )
        fn = dist.Poisson(jnp.exp(x @ loading - 0.5))
        numpyro.sample("y", fn.to_event(2), obs=y)


def counts(seed=0, size=2):
    """Draws of the system."""
    draw = numpyro.handlers.seed(poisson_system, seed)
    zeros = jnp.zeros((size, 20, 10))
    with numpyro.handlers.block():
        trace = numpyro.handlers.trace(numpyro.handlers.condition(draw, {})).get_trace
        return trace(zeros)["y"]["fn"].sample(random.PRNGKey(seed)).astype(float)


def test_a_poisson_system_needs_few_sweeps(x64):
    """The square of what is left is about what the bound can still rise, in nats."""
    near = ns.FixedPoint(max_sweeps=25, tolerance=1e-8)
    guide = ns.AutoSVAE(poisson_system, fixed_point=near)
    ended = guide.convergence({}, counts())["x"]
    assert ended.residual <= 1 and ended.sweeps < 25


def test_gradients_are_those_of_the_best_bound(x64):
    """With the potentials held, though they depend on the parameters."""
    y = counts()
    guide = ns.AutoSVAE(poisson_system, fixed_point=EXACT)
    guide.watch.noticed.add("ascent")
    loading = 0.4 * np.resize(LOADING, (3, 10))

    @jax.jit
    def loss(loading):
        return loss_of(guide, poisson_system, y, params={"loading": loading})

    slope = jax.jit(jax.grad(loss))(jnp.asarray(loading))
    way = np.random.default_rng(1).standard_normal(loading.shape)
    step = 1e-4
    expected = (loss(loading + step * way) - loss(loading - step * way)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(slope * way), expected, rtol=1e-5)


def wide(y, loading):
    """Counts of vectors with a prior under which expectations overflow."""
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(jnp.zeros(3), 10.0).to_event(1))
        numpyro.sample("y", dist.Poisson(jnp.exp(x @ loading)).to_event(1), obs=y)


def test_no_start_makes_a_nan():
    guide = ns.AutoSVAE(wide)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = rng.poisson(30.0, (20, 6)).astype(np.float32)
        loading = 5.0 * rng.standard_normal((3, 6)).astype(np.float32)
        assert np.isfinite(loss_of(guide, wide, y, loading))
        ended = guide.convergence({}, y, loading)["x"]
        assert ended.residual <= 1, seed


def test_sweeps_end_at_kinks(x64):
    """Sums over points have kinks where the density has, and no gradient is zero."""
    y = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)))

    def model(y):
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            fn = dist.Laplace(x @ LOADING[:, :3], 0.5)
            numpyro.sample("y", fn.to_event(1), obs=y)

    guide = ns.AutoSVAE(model)
    ended = guide.convergence({}, y)["x"]
    assert ended.residual <= 1 and ended.sweeps < 100


@pytest.mark.slow
def test_posterior_means_of_a_path_beside_nuts(x64):
    y = counts(size=1)[:, :8]

    def model(y):
        loading = 0.4 * np.resize(LOADING, (3, 10))
        with numpyro.plate("data", 1):
            eye = jnp.eye(3)
            chain = ns.LinearGaussianChain(
                jnp.zeros(3), eye, 0.9 * eye, 0.1 * eye, num_steps=8
            )
            x = numpyro.sample("x", chain)
            fn = dist.Poisson(jnp.exp(x @ loading - 0.5))
            numpyro.sample("y", fn.to_event(2), obs=y)

    guide = ns.AutoSVAE(model)
    loss_of(guide, model, y)
    found = guide.posterior_local({}, y)["x"]
    mcmc = MCMC(NUTS(model), num_warmup=500, num_samples=4000, progress_bar=False)
    mcmc.run(KEY, y)
    draws = mcmc.get_samples()["x"]
    spread = jnp.std(draws, 0)
    assert np.max(jnp.abs(jnp.mean(draws, 0) - found.mean) / spread) < 0.1
    np.testing.assert_allclose(jnp.sqrt(found.variance), spread, rtol=0.1)
