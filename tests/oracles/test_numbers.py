# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations of one number at each step, without a last axis.

Each program is the same as one whose observations have a last axis of size one.
"""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.reading import assert_alike, assert_read_alike

pytestmark = pytest.mark.x64

N, T, D = 3, 6, 2
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, T))
OFFSET, INPUTS = RNG.standard_normal((N, T)), RNG.standard_normal((N, T, 3))
WEIGHT, SEEN = RNG.uniform(0.5, 2.0, (N, T)), RNG.random((N, T)) < 0.7
LOADING = np.array([1.0, 0.5])
ROWS = np.array([[0.8, 0.2], [0.3, 0.7]])


def path():
    eye = jnp.eye(D)
    return ns.LinearGaussianChain(jnp.zeros(D), eye, 0.9 * eye, 0.1 * eye, num_steps=T)


def states():
    return ns.DiscreteMarkovChain(jnp.array([0.5, 0.5]), jnp.asarray(ROWS), T)


def normal(size):
    return dist.Normal(0.0, 1.0).expand([size]).to_event(1)


def observe(axis, loc, scale, mask=True):
    """Numbers at steps, with a last axis or without one."""
    loc, scale = jnp.broadcast_arrays(loc, jnp.asarray(scale))
    fn, y = dist.Normal(loc, scale), Y
    if axis:
        fn, y = dist.Normal(loc[..., None], scale[..., None]).to_event(1), Y[..., None]
    numpyro.sample("y", fn.mask(mask).to_event(1), obs=y)


def known(axis):
    """Loadings, offsets and weights that are known, where some is missing."""
    with numpyro.plate("data", N):
        x = numpyro.sample("x", path())
        observe(axis, x @ LOADING + OFFSET, 0.4 / np.sqrt(WEIGHT), SEEN)


def noise_by_time(axis):
    """Learnt loadings, and a precision of each step."""
    c = numpyro.sample("c", normal(D))
    with numpyro.plate("time", T):
        precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", N):
        observe(axis, numpyro.sample("x", path()) @ c, precision**-0.5)


def regressions(axis):
    """Regressions on inputs, of which a chain of states picks the weights."""
    with numpyro.plate("states", 2):
        w = numpyro.sample("w", normal(3))
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    with numpyro.plate("data", N):
        z = numpyro.sample("z", states())
        observe(axis, jnp.sum(INPUTS * w[z], -1), variance[z] ** 0.5)


def labels(axis):
    """A mean for all steps, that the label of a sequence picks."""
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("data", N):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
        observe(axis, mu[z][:, None] + OFFSET, 0.4)


def regression(axis):
    """Weights of a regression with a noise to learn, and nothing local."""
    w = numpyro.sample("w", normal(3))
    precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", N):
        observe(axis, INPUTS @ w, precision**-0.5)


def vectors(axis):
    """A vector at each step, independent of the others."""
    with numpyro.plate("data", N):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([T, D]).to_event(2))
        observe(axis, x @ LOADING, 0.4)


def run(model):
    """Losses of two natural steps, the posterior and draws after them."""
    guide = ns.AutoSVAE(model, num_starts=1)
    params, losses = steps(make_svi(model, guide), 2)
    return losses, params, guide.sample_posterior(random.PRNGKey(1), params)


@pytest.mark.parametrize(
    "model",
    [known, noise_by_time, regressions, labels, regression, vectors],
)
def test_factors_of_numbers_are_those_of_vectors_of_one_entry(model):
    assert_read_alike(partial(model, False), partial(model, True))


def test_posteriors_and_draws_of_numbers():
    assert_alike(run(partial(labels, False)), run(partial(labels, True)))


def test_bound_of_numbers_is_their_density():
    """A dense Gaussian of what is seen of each path."""
    model = partial(known, False)
    svi = make_svi(model, ns.AutoSVAE(model))
    loss = svi.evaluate(svi.init(random.PRNGKey(0)))
    dense, expected = path().to_dense(), 0.0
    map_ = np.kron(np.eye(T), LOADING)
    for n in range(N):
        cov = map_ @ dense.covariance_matrix @ map_.T + np.diag(0.16 / WEIGHT[n])
        loc, kept = map_ @ dense.loc + OFFSET[n], SEEN[n]
        seen = dist.MultivariateNormal(loc[kept], cov[np.ix_(kept, kept)])
        expected -= seen.log_prob(Y[n][kept])
    np.testing.assert_allclose(loss, expected, rtol=1e-8)
