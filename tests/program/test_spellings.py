# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One model in several spellings: all of them have the posterior of the plain one."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import digamma

import numpyro_svae as ns
from tests.data import make_svi, steps

RNG = np.random.default_rng(0)
LABEL = np.arange(16) % 2
Y = np.where(LABEL, 2.0, -1.0) + 0.5 * RNG.standard_normal(16)
WIDE = dist.Normal(0.0, 5.0)


def fitted(model, count=12, y=Y):
    """The guide and its parameters, and the last loss."""
    guide = ns.AutoSVAE(model, num_starts=1)
    params, losses = steps(make_svi(model, guide), count, y)
    return guide, params, losses[-1]


def labelled(components, gaussian):
    """Data of two states, whose label picks what they are drawn from."""

    def model(y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        own = components()
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", gaussian(z, *own), obs=y)

    return model


def batch():
    with numpyro.plate("states", 2):
        return (numpyro.sample("mu", WIDE),)


def apart():
    return numpyro.sample("a", WIDE), numpyro.sample("b", WIDE)


def noisy():
    return numpyro.sample("mu", WIDE), numpyro.sample("tau", dist.Gamma(2.0, 1.0))


def test_a_label_picks_one_of_several_sites():
    plain = fitted(labelled(batch, lambda z, mu: dist.Normal(mu[z], 0.5)))

    def picked(z, a, b):
        return dist.Normal(jnp.where(z == 1, b, a), 0.5)

    guide, params, loss = fitted(labelled(apart, picked))
    np.testing.assert_allclose(loss, plain[2], rtol=1e-4)
    found = guide.get_posterior(params)
    expected = plain[0].get_posterior(plain[1])["mu"]
    for part in "mean", "variance":
        values = [getattr(found[name], part) for name in "ab"]
        goal = np.sort(getattr(expected, part))
        np.testing.assert_allclose(np.sort(values), goal, rtol=1e-3)


def test_a_label_says_whether_a_site_counts_and_how_noise_is_scaled():
    """The posterior is the fixed point of its coordinate updates."""

    def inflated(z, mu, tau):
        loc, scale = jnp.where(z == 1, 2 * mu, -1.0), jnp.where(z == 1, 1.5, 1.0)
        return dist.Normal(loc, scale / jnp.sqrt(tau))

    guide, params, _ = fitted(labelled(noisy, inflated), 40)
    found = guide.get_posterior(params)
    label = np.asarray(guide.posterior_local(params, Y)["z"].probs)
    mean, tau = float(found["mu"].mean), float(found["tau"].mean)
    variance = float(found["mu"].variance)

    share = label[:, 1] / 1.5**2
    precision = 1 / 25 + tau * 4 * np.sum(share)
    moment = tau * 2 * np.sum(share * Y) / precision
    np.testing.assert_allclose((mean, variance), (moment, 1 / precision), rtol=1e-3)
    squares = np.c_[(Y + 1) ** 2, ((Y - 2 * mean) ** 2 + 4 * variance) / 1.5**2]
    rate = 1.0 + 0.5 * np.sum(label * squares)
    np.testing.assert_allclose(tau, (2.0 + 8.0) / rate, rtol=1e-3)
    log = digamma(np.asarray(found["weights"].concentration))
    score = log - log.max() - 0.5 * tau * squares - [0.0, np.log(1.5)]
    expected = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    np.testing.assert_allclose(label, expected, atol=2e-3)
