# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs that form graphs, against dense algebra, enumeration and chains."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO
import pytest
from scipy.stats import multivariate_normal, norm

import numpyro_svae as ns
from tests.data import make_svi, sequences, steps
from tests.graphs_of_sites import (
    LOADING,
    NOISE,
    factorial,
    hierarchy,
    hierarchy_svae,
    linear_regression,
    members_recognised,
    nested_labels,
    onesite_lds,
    stepwise_hmm,
    stepwise_lds,
)
from tests.switching import INITIAL, ROWS, hmm

KEY = random.PRNGKey(0)


def inferred(model, *args, loss=None):
    """The loss of a model without parameters, its guide and its local posterior."""
    guide = ns.AutoSVAE(model)
    value = (loss or ns.SVAE_ELBO()).loss(KEY, {}, model, guide, *args)
    return float(value), guide, guide.posterior_local({}, *args)


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape))


def test_hierarchy_is_the_dense_gaussian(x64):
    y = numbers(4, 3, 3)
    loss, _, local = inferred(hierarchy, y)
    cov = np.kron(np.ones((4, 4)), np.eye(2)) + 0.5 * np.eye(8)
    loading = np.kron(np.eye(4), LOADING)
    total = loading @ cov @ loading.T + NOISE * np.eye(12)
    flat = np.moveaxis(y, 1, 0).reshape(3, -1)
    evidence = multivariate_normal(np.zeros(12), total).logpdf(flat).sum()
    np.testing.assert_allclose(loss, -evidence, rtol=1e-9)
    weighed = np.linalg.solve(total, loading).T
    members = np.moveaxis((flat @ (cov @ weighed).T).reshape(3, 4, 2), 0, 1)
    np.testing.assert_allclose(local["x"].mean, members, atol=1e-9)
    shared = np.tile(np.eye(2), 4) @ weighed
    np.testing.assert_allclose(local["m"].mean, flat @ shared.T, atol=1e-9)
    left = np.eye(2) - shared @ loading @ np.tile(np.eye(2), 4).T
    np.testing.assert_allclose(local["m"].covariance_matrix[0], left, atol=1e-9)


def test_nested_labels_are_enumerated(x64):
    y = numbers(4, 3)
    loss, _, local = inferred(nested_labels, y)
    seen = np.exp(norm(np.array([-1, 1])[:, None, None], 1).logpdf(y))
    groups = np.einsum("gz,znm->gnm", ROWS, seen).prod(1)
    joint = INITIAL[:, None] * groups
    np.testing.assert_allclose(loss, -np.log(joint.sum(0)).sum(), rtol=1e-9)
    np.testing.assert_allclose(local["g"].probs, (joint / joint.sum(0)).T, atol=1e-9)


def test_factorial_model_is_enumerated(x64):
    y = numbers(5)
    loss, _, local = inferred(factorial, y)
    loc = np.array([-1.0, 1.0])[:, None] + np.array([-2.0, 0.0, 2.0]) - 2.0
    spread = np.sqrt(1.0 + 0.7**2 + 4 * 0.5**2)
    seen = np.exp(norm(loc[..., None], spread).logpdf(y))
    joint = np.einsum("a,b,abn->abn", [0.4, 0.6], [0.3, 0.3, 0.4], seen)
    np.testing.assert_allclose(loss, -np.log(joint.sum((0, 1))).sum(), rtol=1e-9)
    b = (joint / joint.sum((0, 1))).sum(0).T
    np.testing.assert_allclose(local["b"].probs, b, atol=1e-9)


def test_linear_regression_is_the_dense_gaussian(x64):
    x, y = numbers(6, 3), numbers(6)
    loss, _, local = inferred(linear_regression, x, y)
    cov = np.asarray(x @ x.T) + 0.25 * np.eye(6)
    evidence = multivariate_normal(np.zeros(6), cov).logpdf(y)
    np.testing.assert_allclose(loss, -evidence, rtol=1e-9)
    mean = np.linalg.solve(np.asarray(x.T @ x) + 0.25 * np.eye(3), x.T @ y)
    np.testing.assert_allclose(local["w"].mean, mean, atol=1e-9)


@pytest.mark.slow
def test_steps_of_a_linear_system_are_its_chain(x64):
    y, _ = sequences(count=2, steps=4, outputs=2)
    chain, _, whole = inferred(onesite_lds, y)
    graph, _, local = inferred(stepwise_lds, y)
    np.testing.assert_allclose(graph, chain, rtol=1e-9)
    for t in range(4):
        found, expected = local[f"x{t}"], whole["x"]
        np.testing.assert_allclose(found.mean, expected.mean[:, t], atol=1e-9)
        np.testing.assert_allclose(
            found.covariance_matrix, expected.covariance[:, t], atol=1e-9
        )


@pytest.mark.slow
def test_steps_of_an_hmm_learn_what_its_chain_learns(x64):
    """Natural gradients through the graph are those through the chain."""
    y, _ = sequences(count=3, steps=4, outputs=2)
    start = {
        "initial": dist.Dirichlet(jnp.array([1.0, 2.0])),
        "rows": dist.Dirichlet(jnp.array([[3.0, 2.0], [1.0, 2.0]])),
        "components": ns.NormalInverseWishart(
            jnp.array([[0.5, 0.0], [-0.5, 0.0]]), 1.0, 5.0, 2.0 * jnp.eye(2)
        ),
    }
    results = []
    for model in (hmm, stepwise_hmm):
        guide = ns.AutoSVAE(model, init=start)
        params, losses = steps(make_svi(model, guide, natural=0.7), 3, y)
        results.append((losses, guide.get_posterior(params)))
    (chain, first), (graph, second) = results
    np.testing.assert_allclose(chain, graph, rtol=1e-7)
    for name in ("initial", "rows"):
        np.testing.assert_allclose(
            first[name].concentration, second[name].concentration, rtol=1e-6
        )


@pytest.mark.parametrize("model", [hierarchy, nested_labels, factorial])
def test_the_posterior_is_exact_for_every_draw(x64, model):
    """Where q is the posterior, log p - log q is the evidence whatever is drawn."""
    y = {hierarchy: numbers(4, 3, 3), nested_labels: numbers(4, 3)}.get(
        model, numbers(5)
    )
    closed, guide, local = inferred(model, y)
    sampled, *_ = inferred(model, y, loss=Trace_ELBO())
    np.testing.assert_allclose(sampled, closed, rtol=1e-9)
    draws = guide.sample_posterior(KEY, {}, y, sample_shape=(4000,))
    for name, marginal in local.items():
        if hasattr(marginal, "probs"):
            means, expected = draws[name] == 0, marginal.probs[..., 0]
            spread = np.sqrt(expected * (1 - expected))
        else:
            means, expected = draws[name], marginal.mean
            spread = np.sqrt(marginal.variance)
        error = np.abs(np.mean(means, 0) - expected)
        assert np.all(error < 5 * spread / np.sqrt(4000) + 1e-6)


def test_a_hierarchy_behind_a_decoder_is_learnt():
    y = numbers(4, 3, 3)
    guide = ns.AutoSVAE(hierarchy_svae, members_recognised)
    params, losses = steps(make_svi(hierarchy_svae, guide, natural=0.3), 30, y)
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-5:]) < np.mean(losses[:3])
    assert guide.posterior_local(params, y)["m"].mean.shape == (3, 2)
