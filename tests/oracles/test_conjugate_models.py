# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Every conjugate pair: evidence in closed form, and bounds that only rise."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy.special import betaln, binom, gammaln
from scipy.stats import t as student

import numpyro_svae as ns
from tests.conjugate import (
    diagonal_mixture,
    factor_analysis,
    gaussian,
    mixture_of,
    multinomial_mixture,
    poisson_hmm,
    single,
)
from tests.data import make_svi, steps


def beta_evidence(y, trials):
    wins, losses = y.sum(), (trials - y).sum()
    return betaln(2 + wins, 3 + losses) - betaln(2, 3)


def gamma_evidence(shape, rate):
    def normalizer(a, b):
        return gammaln(a) - a * np.log(b)

    return normalizer(2 + shape, 1.5 + rate) - normalizer(2, 1.5)


def evidence(kind, y):
    y = np.asarray(y)
    if kind.startswith("bernoulli"):
        return beta_evidence(y, 1)
    if kind == "binomial":
        return beta_evidence(y, 5) + np.log(binom(5, y)).sum()
    if kind == "geometric":
        return betaln(2 + len(y), 3 + y.sum()) - betaln(2, 3)
    if kind.startswith("negative-binomial"):
        base = gammaln(y + 4) - gammaln(4) - gammaln(y + 1)
        return betaln(2 + y.sum(), 3 + 4 * len(y)) - betaln(2, 3) + base.sum()
    if kind.endswith("gamma"):
        x = 1 / y if kind == "inverse-gamma" else y
        power = -3.5 if kind == "inverse-gamma" else 1.5
        base = power * np.log(y) - gammaln(2.5)
        return gamma_evidence(2.5 * len(y), x.sum()) + base.sum()
    if kind == "poisson":
        return gamma_evidence(y.sum(), len(y)) - gammaln(y + 1).sum()
    return gamma_evidence(len(y), y.sum())


def data(kind, shape=(6,), seed=0):
    rng = np.random.default_rng(seed)
    draws = {
        "binomial": lambda: rng.binomial(5, 0.4, shape),
        "geometric": lambda: rng.geometric(0.3, shape) - 1,
        "poisson": lambda: rng.poisson(3.0, shape),
        "exponential": lambda: rng.exponential(0.5, shape),
        "negative-binomial": lambda: rng.negative_binomial(4, 0.6, shape),
        "negative-binomial-logits": lambda: rng.negative_binomial(4, 0.6, shape),
        "gamma": lambda: rng.gamma(2.5, 0.5, shape),
        "inverse-gamma": lambda: 1 / rng.gamma(2.5, 0.5, shape),
    }
    return jnp.asarray(draws.get(kind, lambda: rng.binomial(1, 0.4, shape))())


def fitted(model, *args, count=2, **kwargs):
    guide = ns.AutoSVAE(model, num_starts=1)
    params, losses = steps(make_svi(model, guide, natural=1.0), count, *args, **kwargs)
    return guide.get_posterior(params), np.asarray(losses)


KINDS = (
    "bernoulli",
    "bernoulli-logits",
    "binomial",
    "geometric",
    "poisson",
    "exponential",
    "negative-binomial",
    "negative-binomial-logits",
    "gamma",
    "inverse-gamma",
)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_gives_the_evidence(x64, kind):
    y = data(kind)
    _, losses = fitted(partial(single, kind), y)
    np.testing.assert_allclose(losses[1], -evidence(kind, y), rtol=1e-9)


@pytest.mark.parametrize("kind", ["binomial", "poisson"])
def test_features_are_independent_and_may_be_missing(x64, kind):
    y = data(kind, (6, 2))
    mask = jnp.ones((6, 2), bool).at[1, 0].set(False).at[4].set(False)
    model = partial(single, kind, features=(2,))
    junk = jnp.where(mask, y, -1)
    with numpyro.validation_enabled(False):
        posterior, losses = fitted(model, junk, mask=mask)
    apart = sum(evidence(kind, y[mask[:, d], d]) for d in range(2))
    np.testing.assert_allclose(losses[1], -apart, rtol=1e-9)
    (site,) = posterior.values()
    assert site.event_shape == (2,)


def test_normal_gamma_is_a_student_t(x64):
    y = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2)))

    posterior, losses = fitted(gaussian, y)
    total = 0.0
    for d in range(2):  # the evidence as a product of posterior predictives
        a, b, m, k = 2.0, 1.5, 0.3, 0.5
        for v in np.asarray(y[:, d]):
            scale = np.sqrt(b * (k + 1) / (a * k))
            total += student(2 * a, m, scale).logpdf(v)
            a, b = a + 0.5, b + 0.5 * k / (k + 1) * (v - m) ** 2
            m, k = (k * m + v) / (k + 1), k + 1
        found = posterior["mu"].base_dist
        np.testing.assert_allclose(found.loc[d, 0, 0], m)
        np.testing.assert_allclose(found.df[d], 2 * a)
        np.testing.assert_allclose(found.scale_matrix[d, 0, 0], 2 * b)
    np.testing.assert_allclose(losses[1], -total, rtol=1e-9)


def two_groups(draw):
    return jnp.asarray(np.concatenate([draw(0), draw(1)]))


def mixtures():
    rng = np.random.default_rng(1)
    counts = two_groups(lambda k: rng.poisson([[1, 8], [7, 2]][k], (12, 2)))
    flips = two_groups(lambda k: rng.binomial(1, [[0.1, 0.8], [0.9, 0.3]][k], (12, 2)))
    words = two_groups(
        lambda k: rng.multinomial(9, [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]][k], 12)
    )
    points = two_groups(lambda k: rng.normal([[0, 3], [4, -1]][k], [0.5, 1.0], (12, 2)))
    lines = rng.standard_normal((20, 1)) * [1.0, -2.0, 0.5]
    lines = jnp.asarray(lines + 0.1 * rng.standard_normal((20, 3)))
    return {
        "poisson": (partial(mixture_of, "poisson"), counts),
        "poisson-scalar": (partial(mixture_of, "poisson"), counts[:, 0]),
        "bernoulli": (partial(mixture_of, "bernoulli"), flips),
        "multinomial": (multinomial_mixture, words),
        "diagonal": (diagonal_mixture, points),
        "diagonal-latent": (partial(diagonal_mixture, latent=True), points),
        "hmm": (poisson_hmm, counts[:, 0].reshape(4, 6)),
        "factor-analysis": (factor_analysis, lines),
    }


@pytest.mark.parametrize("name", mixtures())
def test_bounds_only_rise(x64, name):
    model, y = mixtures()[name]
    _, losses = fitted(model, y, count=15)
    assert np.all(np.diff(losses) < 1e-9)
    assert losses[0] - losses[-1] > 1e-5


def test_groups_are_found(x64):
    model, y = mixtures()["poisson"]
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide, natural=1.0), 15, y)
    probs = guide.posterior_local(params, y)["z"].probs
    labels = np.argmax(np.asarray(probs), -1)
    assert len(set(labels[:12])) == len(set(labels[12:])) == 1
    assert labels[0] != labels[-1]
    rates = np.sort(np.asarray(guide.get_posterior(params)["rate"].mean)[:, 0])
    np.testing.assert_allclose(rates, [1.0, 7.0], atol=1.0)
