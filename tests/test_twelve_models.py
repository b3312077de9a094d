# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Six of the twelve models of a newcomer, against the truth that data are drawn from.

They use public names alone. What is asked is what a user would ask: are the parameters
where the posterior says, is the score of new data that of the truth? The models of
series are in ``test_twelve_models_in_time``.
"""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns
from numpyro_svae import training
from tests.newcomer import deviations, fit, score


def test_regression():
    rng = np.random.default_rng(1)
    features = np.c_[np.ones(120), rng.standard_normal((120, 3))]
    truth, noise = np.array([0.5, 1.0, -2.0, 0.0]), 0.7
    y = features @ truth + noise * rng.standard_normal(120)

    def model(features, y):
        weights = numpyro.sample(
            "weights", dist.Normal(0.0, 5.0).expand([4]).to_event(1)
        )
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(features @ weights, sigma), obs=y)

    guide, params = fit(model, features, y)
    posterior = guide.get_posterior(params)
    assert np.all(deviations(posterior["weights"], truth) < 3)
    precision = features.T @ features / noise**2
    spread = np.sqrt(np.diag(np.linalg.solve(precision, np.eye(4))))
    np.testing.assert_allclose(np.sqrt(posterior["weights"].variance), spread, rtol=0.2)
    draws = guide.sample_posterior(
        random.key(1), params, features, y, sample_shape=(500,)
    )
    assert np.quantile(draws["sigma"], 0.01) < noise < np.quantile(draws["sigma"], 0.99)


@pytest.mark.slow
def test_principal_components():
    rng = np.random.default_rng(2)
    loading = rng.standard_normal((8, 2)) * np.array([2.0, 1.0])
    y = rng.standard_normal((400, 2)) @ loading.T + 0.5 * rng.standard_normal((400, 8))

    def model(y):
        loading = numpyro.sample(
            "loading", dist.Normal(0.0, 2.0).expand([8, 2]).to_event(2)
        )
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            numpyro.sample("y", dist.Normal(x @ loading.T, sigma).to_event(1), obs=y)

    guide, params = fit(model, y[:200])
    found = guide.get_posterior(params)["loading"].mean
    angles = np.linalg.svd(np.linalg.qr(found)[0].T @ np.linalg.qr(loading)[0])[1]
    assert np.all(angles > 0.98)
    cov = loading @ loading.T + 0.25 * np.eye(8)
    best = dist.MultivariateNormal(jnp.zeros(8), cov).log_prob(y[200:]).mean()
    assert best - 0.15 < score(model, guide, params, y[200:]).mean() < best + 0.05


@pytest.mark.slow
def test_factor_analysis():
    rng = np.random.default_rng(3)
    loading, noise = rng.standard_normal((8, 2)), np.linspace(0.5, 1.2, 8)
    y = rng.standard_normal((800, 2)) @ loading.T + noise * rng.standard_normal(
        (800, 8)
    )

    def model(y):
        prior = dist.Normal(0.0, 1.0).expand([8, 2]).to_event(2)
        loading = numpyro.sample("loading", prior)
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0).expand([8]).to_event(1))
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            numpyro.sample("y", dist.Normal(x @ loading.T, sigma).to_event(1), obs=y)

    guide, params = fit(model, y[:400])
    draws = guide.sample_posterior(random.key(1), params, y[:400], sample_shape=(300,))
    assert np.all(np.abs(draws["sigma"].mean(0) - noise) < 3.5 * draws["sigma"].std(0))
    cov = loading @ loading.T + np.diag(noise**2)
    best = dist.MultivariateNormal(jnp.zeros(8), cov).log_prob(y[400:]).mean()
    assert best - 0.1 < score(model, guide, params, y[400:]).mean() < best + 0.05


LIKELIHOODS = {
    "bernoulli": lambda eta: dist.Bernoulli(logits=eta),
    "binomial": lambda eta: dist.Binomial(5, logits=eta),
    "poisson": lambda eta: dist.Poisson(jnp.exp(eta)),
    "negative binomial": lambda eta: dist.NegativeBinomial2(jnp.exp(eta), 3.0),
    "student": lambda eta: dist.StudentT(3.0, eta, 0.5),
    "gamma": lambda eta: dist.Gamma(2.0, 2.0 * jnp.exp(-eta)),
    "ordinal": lambda eta: dist.OrderedLogistic(eta, jnp.array([-1.0, 0.0, 1.0])),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_seven_likelihoods(name):
    rng = np.random.default_rng(8)
    features = np.c_[np.ones(300), rng.standard_normal((300, 2))]
    truth = np.array([0.3, 0.8, -0.5])
    likelihood = LIKELIHOODS[name]
    y = likelihood(features @ truth).sample(random.key(2))

    def model(features, y):
        weights = numpyro.sample(
            "weights", dist.Normal(0.0, 2.0).expand([3]).to_event(1)
        )
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", likelihood(features @ weights), obs=y)

    guide, params = fit(model, features, y, steps=30)
    posterior = guide.get_posterior(params)["weights"]
    assert np.all(deviations(posterior, truth) < 3)
    assert np.all(np.sqrt(posterior.variance) < 0.25)


@pytest.mark.slow
def test_minibatches_that_resume(tmp_path):
    rng = np.random.default_rng(9)
    centres = np.array([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    y = centres[rng.integers(3, size=3000)] + rng.standard_normal((3000, 2))

    def model(y, size=3000):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("clusters", 3):
            prior = ns.NormalInverseWishart(jnp.zeros(2), 0.1, 4.0, jnp.eye(2))
            mu, Sigma = ns.sample("cluster", prior)
        with numpyro.plate("data", size, subsample_size=len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", dist.MultivariateNormal(mu[z], Sigma[z]), obs=y)

    guide = ns.AutoSVAE(model)
    optimizer = ns.svae_optimizer(natural=lambda step: (step + 4.0) ** -0.6)
    svi = SVI(model, guide, optimizer, loss=ns.SVAE_ELBO())

    def run(steps, path):
        batches = (y[index] for index in training.shuffled(3000, 100, seed=0))
        return training.run_batches(
            svi,
            random.key(0),
            batches,
            steps,
            checkpoint=path,
            every=20,
            progress_bar=False,
        ).params

    run(40, tmp_path / "a.npz")
    resumed, whole = run(80, tmp_path / "a.npz"), run(80, tmp_path / "b.npz")
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), resumed, whole))
    found, _ = guide.get_posterior(resumed)["cluster"].unpack(
        guide.get_posterior(resumed)["cluster"].mean
    )
    distances = np.linalg.norm(np.asarray(found)[:, None] - centres, axis=-1)
    assert sorted(distances.argmin(0)) == [0, 1, 2]
    assert np.all(distances.min(0) < 0.2)


def test_a_few_labels():
    rng = np.random.default_rng(11)
    kind = rng.integers(3, size=300)
    centres = np.array([[0.0, 0.0], [2.5, 0.0], [1.2, 2.2]])
    y = centres[kind] + 0.6 * rng.standard_normal((300, 2))
    known = np.arange(300) < 15

    def model(y, labels, known):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("kinds", 3):
            mu, Sigma = ns.sample(
                "kind", ns.NormalInverseWishart(jnp.zeros(2), 0.1, 4.0, jnp.eye(2))
            )
        with numpyro.plate("data", len(y)):
            z = numpyro.sample(
                "z", dist.Categorical(weights), obs=labels, obs_mask=known
            )
            numpyro.sample("y", dist.MultivariateNormal(mu[z], Sigma[z]), obs=y)

    labels = np.where(known, kind, 0)
    guide, params = fit(model, y, labels, known)
    probs = guide.posterior_local(params, y, labels, known)["z"].probs
    accuracy = np.mean(probs.argmax(-1)[~known] == kind[~known])
    nearest = np.linalg.norm(y[:, None] - centres, axis=-1).argmin(-1)
    assert accuracy > np.mean(nearest[~known] == kind[~known]) - 0.03
