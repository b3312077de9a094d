# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures and hidden Markov models of counts, beside BayesPy from the same start."""

import warnings

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.conjugate import mixture_of, multinomial_mixture, poisson_hmm
from tests.data import make_svi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bayespy.inference import VB
    from bayespy.nodes import (
        Bernoulli,
        Beta,
        Categorical,
        CategoricalMarkovChain,
        Dirichlet,
        Gamma,
        Mixture,
        Multinomial,
        Poisson,
    )

SWEEPS, COUNT, SIZE, WORDS = 8, 2, 12, 9
LABELS = np.arange(SIZE) % COUNT  # hard labels to start from, and their statistics
ONE_HOT = np.eye(COUNT)[LABELS]
HITS = np.bincount(LABELS, minlength=COUNT)
TRUTH = np.arange(SIZE) // (SIZE // COUNT)


def start_of(parameter, posterior):
    return {"weights": dist.Dirichlet(1.0 + HITS), parameter: posterior}


def bernoulli():
    y = np.random.default_rng(0).binomial(1, np.array([0.2, 0.9])[TRUTH, None], (12, 3))
    prior = Beta([2.0, 3.0], plates=(3, COUNT))
    found = ONE_HOT.T @ y
    start = dist.Beta(2.0 + found, 3.0 + HITS[:, None] - found).to_event(1)

    def node(z):
        return Mixture(z, Bernoulli, prior)

    def parameters():
        both = prior.phi[0].swapaxes(0, 1)  # (K, features, 2)
        return {"p": (both[..., 0], both[..., 1])}

    def model(y):
        mixture_of("bernoulli", y)

    return model, y, (SIZE, 1), prior, node, start_of("p", start), parameters


def poisson():
    y = np.random.default_rng(1).poisson(np.array([1.0, 6.0])[TRUTH])
    prior = Gamma(2.0, 1.5, plates=(COUNT,))
    start = dist.Gamma(2.0 + ONE_HOT.T @ y, 1.5 + HITS)

    def node(z):
        return Mixture(z, Poisson, prior)

    def parameters():
        return {"rate": (prior.phi[1], -prior.phi[0])}

    def model(y):
        mixture_of("poisson", y)

    return model, y, (SIZE,), prior, node, start_of("rate", start), parameters


def multinomial():
    topics = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    rng = np.random.default_rng(2)
    y = np.stack([rng.multinomial(WORDS, topics[k]) for k in TRUTH])
    prior = Dirichlet(0.7 * np.ones(3), plates=(COUNT,))
    start = dist.Dirichlet(0.7 + ONE_HOT.T @ y)

    def node(z):
        return Mixture(z, Multinomial, WORDS, prior)

    def parameters():
        return {"words": (prior.phi[0],)}

    start = start_of("words", start)
    return multinomial_mixture, y, (SIZE,), prior, node, start, parameters


def bayespy_mixture(y, plates, prior, make):
    """Bounds before each update of the globals."""
    alpha = Dirichlet(np.ones(COUNT))
    z = Categorical(alpha, plates=plates)
    node = make(z)
    node.observe(y)
    z.initialize_from_value(LABELS.reshape(plates))
    return bounds_of(node, z, prior, alpha), alpha


def bounds_of(node, z, *blocks):
    inference = VB(node, z, *blocks)
    bounds = []
    for block in blocks:
        block.update()
    for _ in range(SWEEPS):
        inference.update(z, verbose=False)
        bounds.append(inference.L[inference.iter - 1])
        for block in blocks:
            block.update()
    return bounds


def learnt(model, y, start):
    guide = ns.AutoSVAE(model, init=start)
    svi = make_svi(model, guide, natural=1.0)
    y = jnp.asarray(y)
    state = svi.init(random.PRNGKey(0), y)
    step = jax.jit(lambda state: svi.update(state, y))
    losses = []
    for _ in range(SWEEPS):
        state, loss = step(state)
        losses.append(loss)
    return guide.get_posterior(svi.get_params(state)), -np.asarray(losses)


def arguments(fn):
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    names = {
        dist.Beta: ("concentration1", "concentration0"),
        dist.Gamma: ("concentration", "rate"),
        dist.Dirichlet: ("concentration",),
    }
    return [getattr(fn, name) for name in names[type(fn)]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [bernoulli, poisson, multinomial])
def test_mixture(case, x64):
    model, y, plates, prior, node, start, parameters = case()
    bounds, alpha = bayespy_mixture(y, plates, prior, node)
    assert bounds[-1] - bounds[0] > 0.1  # there is something to learn
    posterior, losses = learnt(model, y, start)
    np.testing.assert_allclose(losses, bounds, rtol=1e-6)
    expected = {"weights": (alpha.phi[0],), **parameters()}
    for name, values in expected.items():
        for found, value in zip(arguments(posterior[name]), values, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_hidden_markov_model(x64):
    y = np.random.default_rng(3).poisson(np.array([1.0, 6.0])[TRUTH])
    first = np.array([3.0, 1.0])
    moves = np.array([[4.0, 1.0], [1.5, 3.0]])
    rates = np.array([[3.0, 2.0], [5.0, 1.0]])  # shape and rate of each state
    initial, rows = Dirichlet(np.ones(2)), Dirichlet(np.ones(2), plates=(2,))
    rate = Gamma(2.0, 1.5, plates=(2,))
    z = CategoricalMarkovChain(initial, rows, states=SIZE)
    node = Mixture(z, Poisson, rate)
    node.observe(y)
    initial.initialize_from_parameters(first)
    rows.initialize_from_parameters(moves)
    rate.initialize_from_parameters(rates[:, 0], rates[:, 1])
    inference = VB(node, z, initial, rows, rate)
    bounds = []
    for _ in range(SWEEPS):
        inference.update(z, verbose=False)
        bounds.append(inference.L[inference.iter - 1])
        for block in (initial, rows, rate):
            block.update()
    assert bounds[-1] - bounds[0] > 0.1
    start = {
        "initial": dist.Dirichlet(first),
        "rows": dist.Dirichlet(moves),
        "rate": dist.Gamma(*rates.T),
    }
    posterior, losses = learnt(poisson_hmm, y[None], start)
    np.testing.assert_allclose(losses, bounds, rtol=1e-6)
    expected = {
        "initial": (initial.phi[0],),
        "rows": (rows.phi[0],),
        "rate": (rate.phi[1], -rate.phi[0]),
    }
    for name, values in expected.items():
        for found, value in zip(arguments(posterior[name]), values, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6)
