# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where everything is conjugate and the globals are known, the ELBO is the evidence."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests.data import clusters, sequences
from tests.models import known_lds, known_mixture


def elbo(model, guide, *args):
    def loss(key):
        return ns.SVAE_ELBO().loss(key, {}, model, guide, *args)

    return -float(jax.jit(loss)(random.PRNGKey(0)))


def chain_and_noise(shape, actions):
    """The prior of the states of ``known_lds``, and its observation model."""
    with handlers.trace() as messages, handlers.seed(rng_seed=0):
        known_lds(actions=actions, shape=shape)
    chain = messages["x"]["fn"]
    if isinstance(chain, dist.ExpandedDistribution):
        chain = chain.base_dist
    emission = np.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.2]])
    return chain, emission, 0.4 * np.eye(3)


def dense_posterior(y, actions):
    """Evidence and posterior of every sequence, as one big Gaussian each."""
    count, steps, _ = y.shape
    chain, emission, noise = chain_and_noise(y.shape[:2], actions)
    prior = chain.to_dense()
    eye = np.eye(steps)
    C, R = np.kron(eye, emission), np.kron(eye, noise)
    evidence, means = 0.0, []
    prior_means = np.broadcast_to(prior.mean, (count, 2 * steps))
    P = np.asarray(prior.covariance_matrix).reshape(-1, 2 * steps, 2 * steps)[0]
    for n in range(count):
        m = prior_means[n]
        predicted, S = C @ m + 0.1, C @ P @ C.T + R
        flat = np.asarray(y[n]).ravel()
        evidence += multivariate_normal.logpdf(flat, predicted, S)
        gain = np.linalg.solve(S, C @ P).T
        means.append((m + gain @ (flat - predicted)).reshape(steps, -1))
    return evidence, np.stack(means), (P - gain @ C @ P)


def test_linear_dynamics_reach_the_evidence(x64):
    y, actions = sequences()
    guide = ns.AutoSVAE(known_lds)
    evidence, means, covariance = dense_posterior(y, actions)
    np.testing.assert_allclose(elbo(known_lds, guide, y, actions), evidence, rtol=1e-11)
    smoothed = guide.posterior_local({}, y, actions)["x"]
    np.testing.assert_allclose(smoothed.mean, means, rtol=1e-9, atol=1e-10)
    for t in range(y.shape[1]):
        block = covariance[2 * t : 2 * t + 2, 2 * t : 2 * t + 2]
        np.testing.assert_allclose(smoothed.covariance[-1, t], block, rtol=1e-9)


def test_linear_dynamics_agree_with_dynamax(x64):
    from dynamax.linear_gaussian_ssm.inference import (
        lgssm_smoother,
        make_lgssm_params,
    )

    y, _ = sequences(count=1, steps=60)
    _, emission, noise = chain_and_noise((1, 60), None)
    transition = jnp.array([[0.9, -0.2], [0.3, 0.8]])
    params = make_lgssm_params(
        jnp.array([0.5, -0.5]),
        1.5 * jnp.eye(2),
        transition,
        jnp.array([[0.3, 0.1], [0.1, 0.2]]),
        jnp.asarray(emission),
        jnp.asarray(noise),
        emissions_bias=0.1 * jnp.ones(3),
    )
    guide = ns.AutoSVAE(known_lds)
    theirs = lgssm_smoother(params, y[0])
    np.testing.assert_allclose(
        elbo(known_lds, guide, y), theirs.marginal_loglik, rtol=1e-8
    )
    ours = guide.posterior_local({}, y)["x"]
    np.testing.assert_allclose(ours.mean[0], theirs.smoothed_means, atol=1e-8)
    np.testing.assert_allclose(
        ours.covariance[0], theirs.smoothed_covariances, atol=1e-8
    )


def enumerate_mixture(y, noise=0.5):
    """Log joint probability of each label, summed over the Gaussian latent."""
    weights = np.array([0.5, 0.3, 0.2])
    loc = np.array([[0.0, 0.0], [1.5, 0.5], [-1.0, 2.0]])
    spread = np.array([0.5, 1.0, 0.7]) + noise
    parts = [
        np.log(w) + multivariate_normal.logpdf(y, m, s * np.eye(2))
        for w, m, s in zip(weights, loc, spread)
    ]
    return np.stack(parts, -1)


@pytest.fixture
def mixture_data(x64):
    y, _ = clusters(12)
    return y, enumerate_mixture(np.asarray(y))


def test_exact_joint_of_a_mixture_reaches_the_evidence(mixture_data):
    y, parts = mixture_data
    guide = ns.AutoSVAE(known_mixture)
    evidence = np.logaddexp.reduce(parts, -1)
    found = elbo(known_mixture, guide, y)
    np.testing.assert_allclose(found, evidence.sum(), rtol=1e-10)
    local = guide.posterior_local({}, y)
    responsibilities = np.exp(parts - evidence[:, None])
    np.testing.assert_allclose(local["z"].probs, responsibilities, rtol=1e-8)
    assert isinstance(local["x"], dist.MixtureSameFamily)


def test_mean_field_of_a_mixture_is_below_the_evidence(mixture_data):
    y, parts = mixture_data
    guide = ns.AutoSVAE(known_mixture, mean_field=True)
    gap = np.logaddexp.reduce(parts, -1).sum() - elbo(known_mixture, guide, y)
    assert 0.1 < gap < 5.0


def test_one_sequence_of_one_state(x64):
    y, _ = sequences(count=1, steps=1)
    evidence, means, _ = dense_posterior(y, None)
    guide = ns.AutoSVAE(known_lds)
    np.testing.assert_allclose(elbo(known_lds, guide, y), evidence, rtol=1e-11)
    smoothed = guide.posterior_local({}, y)["x"]
    np.testing.assert_allclose(smoothed.mean, means, rtol=1e-9)
