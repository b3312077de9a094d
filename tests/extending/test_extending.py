# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Kinds of local sites and global blocks that are not the package's own."""

from itertools import pairwise, product

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, logsumexp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
import pytest

import numpyro_svae as ns
from tests.data import clusters, make_svi, steps
from tests.extending.pareto import PARETO
from tests.extending.semi_markov import SemiMarkovChain, SemiMarkovKind, log
from tests.extending.wishart import WishartPrior

ns.kinds.register(SemiMarkovKind())
ns.kinds.register_prior(WishartPrior)
ns.kinds.register_observation(PARETO)

INITIAL = np.array([0.5, 0.2, 0.3])
TRANSITION = np.array([[0.0, 0.7, 0.3], [0.6, 0.0, 0.4], [0.5, 0.5, 0.0]])
DURATION = np.array([[0.1, 0.6, 0.3], [0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
LEVELS = jnp.array([-1.0, 0.5, 2.0])
STEPS = 5


def paths(transition):
    """All paths, and their log densities, by segments."""
    every = np.array(list(product(range(3), repeat=STEPS)))
    found = []
    for path in every:
        ends = [t for t in range(STEPS) if t == STEPS - 1 or path[t] != path[t + 1]]
        begins = [0, *(t + 1 for t in ends[:-1])]
        states, total = path[begins], log(INITIAL)[path[0]]
        for before, after in pairwise(states):
            total = total + transition[before, after]
        for state, first, last in zip(states, begins, ends):
            long = last - first + 1
            seen = DURATION[state, long - 1 : None if last == STEPS - 1 else long]
            total = total + log(seen.sum())
        found.append(total)
    return every, jnp.stack(found)


def chain(transition):
    return SemiMarkovChain(INITIAL, transition, DURATION, STEPS)


def test_density_and_draws_of_the_distribution(x64):
    every, density = paths(log(TRANSITION))
    np.testing.assert_allclose(chain(TRANSITION).log_prob(every), density, rtol=1e-10)
    np.testing.assert_allclose(logsumexp(density), 0.0, atol=1e-10)
    drawn = chain(TRANSITION).sample(random.PRNGKey(0), (4000,))
    codes = np.asarray(drawn) @ 3 ** np.arange(STEPS)[::-1]
    share = np.bincount(codes, minlength=len(every)) / len(codes)
    assert np.abs(share - np.exp(density)).max() < 0.03


def model(y):
    """Sequences of levels whose transitions are learnt."""
    counts = jnp.where(jnp.eye(3) == 1, 0.0, 2.0)
    with numpyro.plate("states", 3):
        rows = numpyro.sample("rows", ns.DirichletWithZeros(counts))
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z", chain(rows))
        numpyro.sample("y", dist.Normal(LEVELS[z], 0.7).to_event(1), obs=y)


def test_a_kind_of_ones_own_is_inferred_exactly(x64):
    rng = np.random.default_rng(0)
    y, free = rng.normal(0.5, 1.0, (2, STEPS)), ~np.eye(3, dtype=bool)
    counts = jnp.where(free, rng.uniform(1.0, 4.0, (3, 3)), 0.0)
    start = ns.DirichletWithZeros(counts)
    guide = ns.AutoSVAE(model, init={"rows": start})
    params, losses = steps(make_svi(model, guide), 1, y)

    def evidence(logs):
        every, density = paths(jnp.where(free, logs, -jnp.inf))
        seen = dist.Normal(LEVELS[every], 0.7).log_prob(y[:, None]).sum(-1)
        return jnp.sum(logsumexp(density + seen, -1))

    whole = counts.sum(-1, keepdims=True)
    logs = digamma(jnp.where(free, counts, 1.0)) - digamma(whole)
    value, seen = jax.value_and_grad(evidence)(logs)
    prior = ns.DirichletWithZeros(jnp.where(free, 2.0, 0.0))
    kl = jnp.sum(kl_divergence(start, prior))
    np.testing.assert_allclose(losses[0], kl - value, rtol=1e-10)
    found = guide.get_posterior(params)["rows"].concentration
    np.testing.assert_allclose(found[free], 2 + seen[free], rtol=1e-9)


def test_what_a_kind_does_not_say_is_refused_by_name(x64):
    y = np.random.default_rng(0).normal(0.5, 1.0, (2, STEPS))
    guide = ns.AutoSVAE(model, num_starts=1)
    params, _ = steps(make_svi(model, guide), 1, y)
    with pytest.raises(NotImplementedError, match=r"semi_markov.*draw_on"):
        ns.forecast(model, guide, params, random.PRNGKey(0), y, horizon=2)


def mixture(y, precision):
    """Two clusters, whose noise has one of two priors that are the same."""
    scale = jnp.diag(jnp.array([1.0, 2.0]))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("clusters", 2):
        mean = numpyro.sample(
            "mean", dist.MultivariateNormal(jnp.zeros(2), 9.0 * jnp.eye(2))
        )
        if precision:
            noise = numpyro.sample("noise", dist.Wishart(4.0, rate_matrix=scale))
        else:
            noise = numpyro.sample("noise", dist.InverseWishart(4.0, scale))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(share))
        how = {"precision_matrix" if precision else "covariance_matrix": noise[z]}
        numpyro.sample("y", dist.MultivariateNormal(mean[z], **how), obs=y)


def test_a_block_of_ones_own_is_learnt_as_its_twin(x64):
    y, found = clusters(12)[0].astype(float), []
    for precision in (True, False):
        guide = ns.AutoSVAE(mixture, num_starts=1)
        params, losses = steps(make_svi(mixture, guide), 3, y, precision)
        found.append((losses, guide.get_posterior(params)))
    (losses, posterior), (expected, twin) = found
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert isinstance(posterior["noise"], dist.Wishart)
    rate, scale = posterior["noise"].rate_matrix, twin["noise"].scale_matrix
    np.testing.assert_allclose(rate, scale, rtol=1e-7)


def test_an_observation_of_ones_own_is_conjugate(x64):
    rng = np.random.default_rng(0)
    least, group = rng.uniform(1.0, 2.0, 20), np.arange(20) % 2
    y = least * rng.uniform(0.1, 1.0, 20) ** -0.4

    def incomes():
        with numpyro.plate("groups", 2):
            alpha = numpyro.sample("alpha", dist.Gamma(2.0, 3.0))
        with numpyro.plate("data", 20):
            numpyro.sample("y", dist.Pareto(least, alpha[group]), obs=y)

    guide = ns.AutoSVAE(incomes)
    params, losses = steps(make_svi(incomes, guide), 2)
    found = guide.get_posterior(params)["alpha"]
    logs = np.bincount(group, np.log(y / least))
    np.testing.assert_allclose(found.concentration, 2.0 + 10, rtol=1e-10)
    np.testing.assert_allclose(found.rate, 3.0 + logs, rtol=1e-10)
    shape, rate = 2.0 + 10, 3.0 + logs
    terms = gammaln(shape) - gammaln(2.0) + 2 * np.log(3.0) - shape * np.log(rate)
    evidence = terms.sum() - np.log(y).sum()
    np.testing.assert_allclose(losses[-1], -evidence, rtol=1e-10)
