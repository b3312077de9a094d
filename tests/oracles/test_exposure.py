# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Rates times known numbers, and what data pick, against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
import pytest
from scipy.special import gammaln

import numpyro_svae as ns
from tests.conjugate import gamma
from tests.data import make_svi, steps

N = 8
RNG = np.random.default_rng(0)
GROUP = np.arange(N) % 2
MEMBERS = [np.flatnonzero(np.equal(GROUP, k)) for k in range(2)]
EXPOSURE = RNG.uniform(0.5, 30.0, N)
COUNTS = RNG.poisson(2.0 * EXPOSURE)
TIMES = RNG.gamma(1.5, 1 / EXPOSURE)
# a distribution by its rate, and data
KINDS = {
    "poisson": (dist.Poisson, COUNTS),
    "exponential": (dist.Exponential, TIMES),
    "gamma": (partial(dist.Gamma, 1.5), TIMES),
}


def parts(kind, y, e):
    """What an observation adds to the shape and rate, and the log base measure."""
    if kind == "poisson":
        return y, e, y * np.log(e) - gammaln(y + 1)
    shape = 1.5 if kind == "gamma" else 1.0
    base = shape * np.log(e) + (shape - 1) * np.log(y) - gammaln(shape)
    return shape * np.ones(len(y)), e * y, base


def evidence(kind, y, e):
    shape, rate, base = parts(kind, np.asarray(y), np.asarray(e))

    def normalizer(a, b):
        return gammaln(a) - a * np.log(b)

    found = normalizer(2 + shape.sum(), 1.5 + rate.sum()) - normalizer(2, 1.5)
    return found + base.sum()


def grouped(kind, y, e, scalar=False):
    """A rate for each group, or one for all, times known numbers."""
    if scalar:
        rate = gamma()
    else:
        with numpyro.plate("groups", 2):
            rate = gamma()[GROUP]
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", KINDS[kind][0](rate * e), obs=y)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_gives_the_evidence(kind, x64):
    y = KINDS[kind][1]
    model = partial(grouped, kind)
    _, losses = steps(make_svi(model, ns.AutoSVAE(model)), 2, y, EXPOSURE)
    expected = sum(evidence(kind, y[own], EXPOSURE[own]) for own in MEMBERS)
    np.testing.assert_allclose(losses[1], -expected, rtol=1e-9)


def test_numbers_that_are_one_at_first(x64):
    """What a program multiplies by need not be seen in the first batch."""
    model = partial(grouped, "poisson", scalar=True)
    svi = make_svi(model, ns.AutoSVAE(model))
    state = svi.init(jax.random.key(0), COUNTS, jnp.ones(N))
    state, _ = svi.update(state, COUNTS, EXPOSURE)
    _, loss = svi.update(state, COUNTS, EXPOSURE)
    np.testing.assert_allclose(loss, -evidence("poisson", COUNTS, EXPOSURE), rtol=1e-9)


def features(y, e, rows=None):
    """Rates of features; with rows, a group of data has those of a member."""
    with numpyro.plate("groups", 2):
        rate = gamma(features=(3,))
    rate = rate[rows] if e is None else rate[rows] * e
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


@pytest.mark.parametrize("exposed", [False, True])
def test_features_of_a_member(exposed, x64):
    e = RNG.uniform(0.5, 2.0, (N, 3)) if exposed else np.ones((N, 3))
    y = np.random.default_rng(1).poisson(3.0, (N, 3))
    args = y, e if exposed else None, GROUP
    _, losses = steps(make_svi(features, ns.AutoSVAE(features)), 2, *args)
    expected = sum(
        evidence("poisson", y[own, d], e[own, d]) for own in MEMBERS for d in range(3)
    )
    np.testing.assert_allclose(losses[1], -expected, rtol=1e-9)


def mixture(y, e, group):
    """Counts of which states and groups pick the rate, in two axes of plates."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("states", 2, dim=-1), numpyro.plate("groups", 2, dim=-2):
        rate = gamma()
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Poisson(rate[group, z] * e), obs=y)


def test_states_and_groups_pick_together(x64):
    start = {
        "rate": dist.Gamma(jnp.array([[3.0, 8.0], [2.0, 9.0]]), 2.0 * jnp.ones((2, 2))),
        "weights": dist.Dirichlet(jnp.array([2.0, 3.0])),
    }
    guide = ns.AutoSVAE(mixture, init=start)
    params, losses = steps(make_svi(mixture, guide), 1, COUNTS, EXPOSURE, GROUP)
    digamma, rates = jax.scipy.special.digamma, start["rate"]

    def total(log_rate, rate, log_weights):
        y, e = COUNTS[:, None], EXPOSURE[:, None]
        logits = y * (log_rate[GROUP] + jnp.log(e)) - e * rate[GROUP]
        logits = logits + log_weights - jax.scipy.special.gammaln(y + 1.0)
        return jnp.sum(jax.nn.logsumexp(logits, -1))

    moments = (
        digamma(rates.concentration) - jnp.log(rates.rate),
        rates.mean,
        digamma(start["weights"].concentration) - digamma(5.0),
    )
    value, seen = jax.value_and_grad(total, (0, 1, 2))(*moments)
    prior = dist.Gamma(jnp.full((2, 2), 2.0), 1.5)
    kl = jnp.sum(kl_divergence(rates, prior))
    kl += kl_divergence(start["weights"], dist.Dirichlet(jnp.ones(2)))
    np.testing.assert_allclose(losses[0], kl - value, rtol=1e-10)
    found = guide.get_posterior(params)
    np.testing.assert_allclose(found["rate"].concentration, 2 + seen[0], rtol=1e-9)
    np.testing.assert_allclose(found["rate"].rate, 1.5 - seen[1], rtol=1e-9)
    np.testing.assert_allclose(found["weights"].concentration, 1 + seen[2], rtol=1e-9)
