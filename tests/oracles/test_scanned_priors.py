# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Latent sites in the body of a scan that do not depend on the carry."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests.data import make_svi

pytestmark = [
    pytest.mark.x64,
    # NumPyro's scan looks at the shapes of parameters that are pytrees
    pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning"),
]

N, T, D = 3, 4, 2
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, T, D))
MATRIX, NOISE = np.array([[0.8, 0.2], [-0.1, 0.7]]), 0.3 * np.eye(D)
PROBS, MEANS = np.array([0.3, 0.7]), RNG.standard_normal((2, D))
COVS = np.stack([0.5 * np.eye(D), np.eye(D)])
WEIGHTS = np.stack([MATRIX, -MATRIX])


def normal(name, mean=0.0, cov=None):
    cov = jnp.eye(D) if cov is None else cov
    return numpyro.sample(name, dist.MultivariateNormal(mean * jnp.ones(D), cov))


def observe(loc, cov, y):
    return numpyro.sample("y", dist.MultivariateNormal(loc, cov), obs=y)


def loss(model):
    guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(tolerance=1e-12))
    svi = make_svi(model, guide)
    return svi.evaluate(svi.init(random.PRNGKey(0), Y), Y)


def scan_over(y, step, start=None):
    def body(carry, y):
        with numpyro.plate("data", N):
            return step(carry, y), None

    scan(body, start, jnp.moveaxis(y, 1, 0))


# without a path


def vectors(y):
    """A vector of each step, and another that depends on it."""

    def step(carry, y):
        u = normal("u")
        v = numpyro.sample("v", dist.MultivariateNormal(u @ MATRIX.T, NOISE))
        observe(v, 0.2 * jnp.eye(D), y)
        return carry

    scan_over(y, step)


def labels(y):
    def step(carry, y):
        k = numpyro.sample("k", dist.Categorical(PROBS))
        observe(jnp.asarray(MEANS)[k], jnp.asarray(COVS)[k], y)
        return carry

    scan_over(y, step)


def test_sites_of_steps_without_a_path_are_exact():
    cov = MATRIX @ MATRIX.T + NOISE + 0.2 * np.eye(D)
    expected = multivariate_normal.logpdf(Y, np.zeros(D), cov).sum()
    np.testing.assert_allclose(-loss(vectors), expected, rtol=1e-9)
    parts = [multivariate_normal.logpdf(Y, *pair) for pair in zip(MEANS, COVS)]
    expected = logsumexp(np.stack(parts, -1), -1, b=PROBS).sum()
    np.testing.assert_allclose(-loss(labels), expected, rtol=1e-9)


# beside a path: the same as one site for each, of which the first step does not count

LATER = np.arange(T) > 0


def start():
    with numpyro.plate("data", N):
        return normal("x0")


def beside(y):
    def step(x, y):
        x = numpyro.sample("x", dist.MultivariateNormal(x @ MATRIX.T, NOISE))
        observe(x + normal("u"), 0.2 * jnp.eye(D), y)
        return x

    scan_over(y[:, 1:], step, start())


def picked(y):
    def step(x, y):
        k = numpyro.sample("k", dist.Categorical(PROBS))
        loc = (jnp.asarray(WEIGHTS)[k] @ x[..., None])[..., 0]
        x = numpyro.sample("x", dist.MultivariateNormal(loc, jnp.asarray(COVS)[k]))
        observe(x, 0.2 * jnp.eye(D), y)
        return x

    scan_over(y[:, 1:], step, start())


def path(*dynamics):
    first = jnp.zeros(D), jnp.eye(D)
    return numpyro.sample("x", ns.LinearGaussianChain(*first, *dynamics, num_steps=T))


def seen(loc, y):
    fn = dist.MultivariateNormal(loc, 0.2 * jnp.eye(D)).mask(LATER).to_event(1)
    numpyro.sample("y", fn, obs=y)


def beside_one_site(y):
    with numpyro.plate("data", N):
        x = path(MATRIX, NOISE)
        u = dist.MultivariateNormal(jnp.zeros((N, T, D)), jnp.eye(D)).mask(LATER)
        seen(x + numpyro.sample("u", u.to_event(1)), y)


def picked_one_site(y):
    with numpyro.plate("data", N):
        k = dist.Categorical(jnp.broadcast_to(PROBS, (N, T, 2))).mask(LATER)
        k = numpyro.sample("k", k.to_event(1))[..., 1:]
        seen(path(jnp.asarray(WEIGHTS)[k], jnp.asarray(COVS)[k]), y)


@pytest.mark.parametrize(
    ("model", "other"),
    [(beside, beside_one_site), (picked, picked_one_site)],
    ids=["vector", "label"],
)
def test_sites_of_steps_beside_a_path_are_those_of_one_site(model, other):
    np.testing.assert_allclose(loss(model), loss(other), rtol=1e-8)


def test_parameters_in_the_body_of_a_scan_are_refused():
    def model(y):
        def step(carry, y):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
            observe(jnp.zeros(D), jnp.eye(D) / rate[..., None, None], y)
            return carry

        scan_over(y, step)

    with pytest.raises(ValueError, match=r"'rate': found Gamma in the body of a scan"):
        loss(model)


def test_a_vector_that_drives_a_path_is_refused_with_what_to_write():
    def model(y):
        def step(x, y):
            loc = x @ MATRIX.T + normal("u")
            x = numpyro.sample("x", dist.MultivariateNormal(loc, NOISE))
            observe(x, jnp.eye(D), y)
            return x

        scan_over(y[:, 1:], step, start())

    with pytest.raises(ValueError, match=r"'x' .*steps depend on latent 'u'"):
        loss(model)
