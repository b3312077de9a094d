# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observed vectors of which single entries are missing."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO
import pytest

import numpyro_svae as ns
from tests.conjugate import gaussian, normal_gamma
from tests.coupled import LOADING, SECOND
from tests.data import make_svi, steps
from tests.oracles.test_trace_elbo import assert_same_expectation, at_start, estimates

LOADINGS = np.concatenate([LOADING, SECOND.T], 0)
SCALE = np.array([0.5, 1.0, 0.7])
Y = np.random.default_rng(0).standard_normal((4, 3))
SEEN = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
JUNK = np.where(SEEN, Y, np.nan)


def factors(y, seen):
    """Vectors of latent factors, seen entry by entry."""
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        fn = dist.Normal(x @ jnp.asarray(LOADINGS).T, jnp.asarray(SCALE))
        numpyro.sample("y", fn.mask(seen).to_event(1), obs=y)


def labelled_factors(y, seen):
    """The same with a level for each label: a graph."""
    with numpyro.plate("data", len(y)):
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.3, 0.7])))
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        loc = x @ jnp.asarray(LOADINGS).T + jnp.array([-1.0, 1.0])[k][..., None]
        fn = dist.Normal(loc, jnp.asarray(SCALE))
        numpyro.sample("y", fn.mask(seen).to_event(1), obs=y)


def evidence(level):
    """Log density of the entries that are seen, by datum."""
    cov = LOADINGS @ LOADINGS.T + np.diag(SCALE**2)
    found = []
    for y, seen in zip(Y - level, SEEN):
        block = cov[np.ix_(seen, seen)]
        squares = y[seen] @ np.linalg.solve(block, y[seen])
        log_det = np.linalg.slogdet(2 * np.pi * block)[1]
        found.append(-0.5 * (squares + log_det))
    return np.array(found)


@pytest.mark.parametrize("traced", [False, True])
def test_each_entry_counts_by_itself(x64, traced):
    guide = ns.AutoSVAE(factors, num_starts=1)

    def loss(seen):
        return ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, factors, guide, JUNK, seen)

    loss(SEEN)
    found = (jax.jit(loss) if traced else loss)(SEEN)
    np.testing.assert_allclose(found, -evidence(0.0).sum(), rtol=1e-9)


def test_each_entry_counts_by_itself_in_a_graph(x64):
    guide = ns.AutoSVAE(labelled_factors, num_starts=1)
    problem = random.PRNGKey(0), {}, labelled_factors, guide
    found = ns.SVAE_ELBO().loss(*problem, JUNK, SEEN)
    parts = np.log(0.3) + evidence(-1.0), np.log(0.7) + evidence(1.0)
    np.testing.assert_allclose(found, -np.logaddexp(*parts).sum(), rtol=1e-9)


def learnt(y, seen):
    """Gaussian vectors with a mean and a precision of each dimension."""
    mu, tau = normal_gamma(y.shape[-1])
    with numpyro.plate("data", len(y)):
        fn = dist.Normal(mu, 1 / jnp.sqrt(tau)).mask(seen)
        numpyro.sample("y", fn.to_event(1), obs=y)


def learnt_factors(y, seen):
    """Vectors of a latent factor, with weights and noise of each entry to be learnt."""
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5).expand([3]).to_event(1))
    spread = 1 / jnp.sqrt(0.5 * tau[:, None])
    weight = numpyro.sample("W", dist.Normal(jnp.asarray(LOADINGS), spread).to_event(2))
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        fn = dist.Normal(x @ weight.T, 1 / jnp.sqrt(tau)).mask(seen)
        numpyro.sample("y", fn.to_event(1), obs=y)


def test_each_dimension_learns_from_the_data_that_have_it(x64):
    """As if by itself: after one step the bound is the evidence, which factorises."""
    _, losses = steps(
        make_svi(learnt, ns.AutoSVAE(learnt, num_starts=1), natural=1.0), 2, JUNK, SEEN
    )
    apart = 0.0
    for d in range(3):
        own = Y[SEEN[:, d], d : d + 1]
        svi = make_svi(gaussian, ns.AutoSVAE(gaussian, num_starts=1), natural=1.0)
        apart += steps(svi, 2, own)[1][1]
    np.testing.assert_allclose(losses[1], apart, rtol=1e-9)


def independent(y, seen=None):
    """Gaussian vectors with independent means and precisions of each dimension."""
    dim = y.shape[-1]
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(dim), 3.0).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5).expand([dim]).to_event(1))
    with numpyro.plate("data", len(y)):
        fn = dist.Normal(mu, tau**-0.5)
        fn = fn if seen is None else fn.mask(seen)
        numpyro.sample("y", fn.to_event(1), obs=y)


def test_independent_priors_learn_from_the_entries_that_there_are(x64):
    def bound(y, *seen):
        svi = make_svi(independent, ns.AutoSVAE(independent, num_starts=1), natural=0.5)
        return steps(svi, 80, y, *seen)[1][-1]

    apart = sum(bound(Y[SEEN[:, d], d : d + 1]) for d in range(3))
    np.testing.assert_allclose(bound(JUNK, SEEN), apart, rtol=1e-9)


@pytest.mark.slow
def test_what_is_missing_has_no_part_in_learning_factors():
    """The guide is scored by NumPyro, and does not see what is stored there."""
    guide = ns.AutoSVAE(learnt_factors, num_starts=1)
    data = [np.where(SEEN, Y, value).astype(np.float32) for value in (0.0, 1e3)]
    params = at_start(learnt_factors, guide, data[0], SEEN)
    problem = params, learnt_factors, guide
    ours = [estimates(ns.SVAE_ELBO(), *problem, (y, SEEN)) for y in data]
    np.testing.assert_allclose(*ours, rtol=1e-5)
    theirs = estimates(Trace_ELBO(), *problem, (data[0], SEEN))
    assert_same_expectation(ours[0], theirs, precise=1.5)


def test_latent_vectors_are_masked_as_a_whole():
    def model(y, seen):
        with numpyro.plate("data", len(y)):
            fn = dist.Normal(jnp.zeros(y.shape), 1.0).mask(seen).to_event(1)
            x = numpyro.sample("x", fn)
            numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    with pytest.raises(
        ValueError, match=r"Site 'x'.*some entries.*Accepted: a mask of"
    ):
        handlers.seed(ns.AutoSVAE(model, num_starts=1), 0)(Y, SEEN)
