# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian weights of regressions that are not conjugate, against the best Gaussian."""

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.stats import norm
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns
from numpyro_svae.families.free_prior import closest_gamma
from tests.data import make_svi, steps

COUNT, SIZE = 30, 2
RNG = np.random.default_rng(0)
X = RNG.standard_normal((COUNT, SIZE)) + 0.3
PREDICTOR = X @ np.array([0.8, -0.5]) + 0.4
HEADS = np.asarray(RNG.random(COUNT) < 1 / (1 + np.exp(-PREDICTOR)), int)
COUNTS = RNG.poisson(np.exp(PREDICTOR + 1.0))
REAL = PREDICTOR + 0.4 * RNG.standard_t(3, COUNT)
LIKELIHOODS = {
    "logistic": (lambda x: dist.Bernoulli(logits=x), HEADS),
    "probit": (lambda x: dist.Bernoulli(probs=norm.cdf(x)), HEADS),
    "poisson": (lambda x: dist.Poisson(jnp.exp(x)), COUNTS),
    "binomial": (lambda x: dist.Binomial(40, logits=x), COUNTS),
    "negative binomial": (lambda x: dist.NegativeBinomial2(jnp.exp(x), 2.0), COUNTS),
    "gamma": (lambda x: dist.Gamma(3.0, jnp.exp(-x)), COUNTS + 0.5),
    "student": (lambda x: dist.StudentT(4.0, x, 0.4), REAL),
    "normal scale": (lambda x: dist.Normal(0.4, 0.2 + jax.nn.softplus(x)), REAL),
    "normal curve": (lambda x: dist.Normal(jnp.exp(x), 1.0), COUNTS),
}


def regression(likelihood, x, y, size=None):
    def model():
        prior = dist.Normal(0.0, 2.0).expand([SIZE]).to_event(1)
        weights = numpyro.sample("weights", prior)
        intercept = numpyro.sample("intercept", dist.Normal(0.5, 3.0))
        with numpyro.plate("data", size or len(y), subsample_size=len(y)):
            numpyro.sample("y", likelihood(x @ weights + intercept), obs=y)

    return model


def fitted(model, count=40, natural=0.5, **options):
    guide = ns.AutoSVAE(model, **options)
    params, losses = steps(make_svi(model, guide, natural=natural), count)
    return guide, guide.get_posterior(params), losses


def best_gaussian(likelihood, x, y):
    """Means, covariances and the bound of the best pair of Gaussians, by BFGS."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(40)
    masses = masses / np.sum(masses)

    def loss(flat):
        mean, tril = flat[:SIZE], jnp.diag(jnp.exp(flat[SIZE : 2 * SIZE]))
        tril = tril.at[1, 0].set(flat[2 * SIZE])
        at, log_scale = flat[-2], flat[-1]
        variance = jnp.sum((x @ tril) ** 2, -1) + jnp.exp(2 * log_scale)
        points = x @ mean + at + jnp.sqrt(variance) * nodes[:, None]
        fit = jnp.sum(masses[:, None] * likelihood(points).log_prob(y))
        weights = dist.MultivariateNormal(mean, scale_tril=tril)
        prior = dist.MultivariateNormal(jnp.zeros(SIZE), 4 * jnp.eye(SIZE))
        own = dist.Normal(at, jnp.exp(log_scale)), dist.Normal(0.5, 3.0)
        pairs = (weights, prior), own
        return sum(dist.kl_divergence(q, p) for q, p in pairs) - fit

    start = np.full(2 * SIZE + 3, -0.1)
    both = jax.jit(jax.value_and_grad(loss))
    found = minimize(lambda p: both(p), start, jac=True, options={"gtol": 1e-7})
    flat = found.x
    tril = np.diag(np.exp(flat[SIZE : 2 * SIZE]))
    tril[1, 0] = flat[2 * SIZE]
    return flat[:SIZE], tril @ tril.T, flat[-2], np.exp(flat[-1]), found.fun


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_fixed_point_is_the_best_gaussian(name, x64):
    likelihood, y = LIKELIHOODS[name]
    model = regression(likelihood, X, y)
    guide, posterior, losses = fitted(model, cubature=ns.Cubature(num_points=30))
    assert "'y'          sends its gradient to 'intercept', 'weights'" in str(
        guide.structure
    )
    mean, cov, at, scale, loss = best_gaussian(likelihood, X, y)
    weights, intercept = posterior["weights"], posterior["intercept"]
    np.testing.assert_allclose(weights.mean, mean, atol=1e-5)
    np.testing.assert_allclose(weights.covariance_matrix, cov, atol=1e-5)
    np.testing.assert_allclose(intercept.mean, at, atol=1e-5)
    np.testing.assert_allclose(intercept.variance, scale**2, atol=1e-5)
    np.testing.assert_allclose(losses[-1], loss, rtol=1e-7)


class Unknown(dist.Distribution):
    """A Gaussian that the package knows nothing of."""

    arg_constraints = {"loc": dist.constraints.real}
    support = dist.constraints.real
    pytree_data_fields = ("loc",)

    def __init__(self, loc, *, validate_args=None):
        self.loc = jnp.asarray(loc)
        super().__init__(jnp.shape(loc), validate_args=validate_args)

    def log_prob(self, value):
        return dist.Normal(self.loc, 0.7).log_prob(value)


def test_a_conjugate_likelihood_sends_its_closed_form(x64):
    def model():
        prior = dist.MultivariateNormal(jnp.ones(SIZE), 2.0 * jnp.eye(SIZE))
        weights = numpyro.sample("weights", prior)
        with numpyro.plate("data", COUNT):
            numpyro.sample("y", Unknown(X @ weights), obs=REAL)

    _, posterior, losses = fitted(model, 2, natural=1.0)
    precision = X.T @ X / 0.49 + np.eye(SIZE) / 2
    mean = np.linalg.solve(precision, X.T @ REAL / 0.49 + 0.5)
    found = posterior["weights"]
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(found.precision_matrix, precision, rtol=1e-10)
    covariance = 2 * X @ X.T + 0.49 * np.eye(COUNT)
    evidence = dist.MultivariateNormal(X @ np.ones(SIZE), covariance).log_prob(REAL)
    np.testing.assert_allclose(losses[-1], -evidence, rtol=1e-10)


def test_subsamples_and_masks_count_as_they_should(x64):
    likelihood, y = LIKELIHOODS["poisson"]
    _, twice, loss = fitted(regression(likelihood, np.tile(X, (2, 1)), np.tile(y, 2)))
    _, scaled, scaled_loss = fitted(regression(likelihood, X, y, size=2 * COUNT))
    np.testing.assert_allclose(scaled_loss[-1], loss[-1], rtol=1e-9)
    np.testing.assert_allclose(scaled["weights"].mean, twice["weights"].mean, rtol=1e-6)
    seen = np.arange(COUNT) < 20
    _, part, _ = fitted(regression(likelihood, X[:20], y[:20]))
    _, masked, _ = fitted(regression(lambda x: likelihood(x).mask(seen), X, y))
    np.testing.assert_allclose(masked["weights"].mean, part["weights"].mean, rtol=1e-6)


def test_predictors_of_classes_and_of_all_positions(x64):
    """The bound at what is found, against quadrature over the predictors."""
    kinds = RNG.integers(0, 3, COUNT)

    def model():
        prior = dist.Normal(0.0, 1.0).expand([SIZE, 2]).to_event(2)
        weights = numpyro.sample("weights", prior)
        log_size = numpyro.sample("log_size", dist.Normal(0.0, 1.0))
        logits = jnp.concatenate([jnp.zeros((COUNT, 1)), X @ weights], -1)
        with numpyro.plate("data", COUNT):
            numpyro.sample("kind", dist.Categorical(logits=logits), obs=kinds)
            fn = dist.NegativeBinomial2(jnp.exp(X @ weights[:, 0]), jnp.exp(log_size))
            numpyro.sample("count", fn, obs=COUNTS)

    _, posterior, losses = fitted(model, 40, cubature=ns.Cubature(num_points=12))
    nodes, masses = np.polynomial.hermite_e.hermegauss(16)
    first, second = np.meshgrid(nodes, nodes, indexing="ij")
    mass = (np.outer(masses, masses) / np.sum(masses) ** 2)[..., None]
    base = posterior["weights"].base_dist
    shape = (SIZE, 2)
    mean = np.einsum("np,pk->nk", X, base.mean.reshape(shape))
    cov = np.einsum("np,pkql,nq->nkl", X, base.covariance_matrix.reshape(shape * 2), X)
    tril = np.linalg.cholesky(cov)
    one = mean[:, 0] + tril[:, 0, 0] * first[..., None]
    two = mean[:, 1] + tril[:, 1, 0] * first[..., None]
    two = two + tril[:, 1, 1] * second[..., None]
    logits = jnp.stack([jnp.zeros_like(one), one, two], -1)
    terms = dist.Categorical(logits=logits).log_prob(kinds)
    size = posterior["log_size"]
    sizes = jnp.exp(size.mean + jnp.sqrt(size.variance) * second[..., None])
    terms = terms + dist.NegativeBinomial2(jnp.exp(one), sizes).log_prob(COUNTS)
    prior = dist.MultivariateNormal(jnp.zeros(4), jnp.eye(4))
    kl = dist.kl_divergence(base, prior)
    kl = kl + dist.kl_divergence(size, dist.Normal(0.0, 1.0))
    np.testing.assert_allclose(losses[-1], kl - jnp.sum(mass * terms), rtol=1e-5)
    assert losses[-1] < losses[0] + 1e-6


def test_a_horseshoe_is_at_its_fixed_point(x64):
    """The standard deviation of each weight is one of its own times a common one."""
    half = dist.HalfCauchy(1.0)

    def model():
        common = numpyro.sample("common", half)
        own = numpyro.sample("own", half.expand([SIZE]).to_event(1))
        weights = numpyro.sample("weights", dist.Normal(0.0, common * own).to_event(1))
        with numpyro.plate("data", COUNT):
            numpyro.sample("y", dist.Bernoulli(logits=X @ weights), obs=HEADS)

    guide = ns.AutoSVAE(model)
    params, losses = steps(make_svi(model, guide, natural=0.5), 400)
    weights = guide.get_posterior(params)["weights"]
    squares = weights.mean**2 + weights.variance
    common, own = (params[guide._natural_name(n)] for n in ("common", "own"))

    def density(prior, log_precision):
        scale = jnp.exp(-0.5 * log_precision)
        return prior.log_prob(scale) + jnp.log(0.5 * scale)

    def assert_best(natural, count, rate):
        message = closest_gamma(density, natural, half)
        shape = message.concentration + count / 2
        np.testing.assert_allclose(natural.concentration, shape, rtol=1e-5)
        np.testing.assert_allclose(natural.rate, message.rate + rate / 2, rtol=1e-5)

    of_own, of_common = (n.concentration / n.rate for n in (own, common))
    assert_best(own, 1, squares * of_common)
    assert_best(common, SIZE, jnp.sum(squares * of_own))
    assert losses[-1] < losses[0]


def test_large_counts_are_reached_in_single_precision():
    counts = RNG.poisson(np.exp(PREDICTOR + 8.0))
    likelihood, _ = LIKELIHOODS["poisson"]
    _, posterior, losses = fitted(regression(likelihood, X, counts), 5, natural=1.0)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(posterior["intercept"].mean, 8.4, atol=0.02)


def hidden(size):
    def likelihood(weights):
        return dist.Bernoulli(logits=jnp.sum(jnp.tanh(X @ weights), -1))

    return dist.Normal(0.0, 1.0).expand([SIZE, size]).to_event(2), likelihood


def summed():
    def likelihood(weights):
        return dist.Bernoulli(logits=jnp.cumsum(jnp.exp(X @ weights)))

    return dist.Normal(0.0, 1.0).expand([SIZE]).to_event(1), likelihood


@pytest.mark.parametrize(
    ("prior", "likelihood", "message"),
    [
        (*hidden(40), "40 predictors at each position.*numpyro.param"),
        (*summed(), "positions that see the predictors of others"),
    ],
)
def test_what_is_no_regression_is_refused_by_name(prior, likelihood, message):
    def model():
        weights = numpyro.sample("weights", prior)
        with numpyro.plate("data", COUNT):
            numpyro.sample("y", likelihood(weights), obs=HEADS)

    with (
        pytest.raises(ValueError, match=f"(?s)'y'.*'weights'.*{message}"),
        handlers.seed(rng_seed=0),
    ):
        ns.AutoSVAE(model)()


def test_draws_and_predictions():
    model = regression(*LIKELIHOODS["logistic"][:1], X, HEADS)
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 2)
    drawn = guide.sample_posterior(random.PRNGKey(0), params, sample_shape=(3,))
    assert drawn["weights"].shape == (3, SIZE) and drawn["intercept"].shape == (3,)
    predictive = numpyro.infer.Predictive(
        handlers.uncondition(model), guide=guide, params=params, num_samples=4
    )
    assert predictive(random.PRNGKey(1))["y"].shape == (4, COUNT)
