# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Means of means: global Gaussian sites whose priors depend on other global sites.

They are compared with coordinate ascent in numpy, which makes every site independent of
the others, and with spellings that are read in another way.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.mean_field import Gammas, Known, OneGamma, Tree, Wishart

pytestmark = pytest.mark.x64

G, D, N = 4, 2, 14
RNG = np.random.default_rng(0)
GROUP = np.arange(N) % G
CENTRES = np.array([[0.0, 1.0], [2.0, 2.0], [-1.0, 0.0], [1.0, -1.5]])
Y = CENTRES[GROUP] + RNG.normal(0.0, 0.8, (N, D))
NOISE = np.array([[0.6, 0.2], [0.2, 0.9]])
WIDE = 10.0 * np.eye(D)
PSI = np.array([[1.0, 0.3], [0.3, 2.0]])


def fitted(model, *args, count=150, natural=0.6, **options):
    guide = ns.AutoSVAE(model, num_starts=1, **options)
    params, losses = steps(make_svi(model, guide, natural), count, *args)
    return guide, params, losses


def assert_is(posteriors, name, vectors):
    """Posteriors of a batch of vectors, or of one."""
    found = posteriors[name]
    mean = np.stack([x.mean for x in vectors]).reshape(found.mean.shape)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=1e-8)
    variance = np.stack([np.diag(x.cov) for x in vectors])
    variance = variance.reshape(found.variance.shape)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-6)


# a population of means


def spread_of(kind):
    """The covariance of a population, and what it is in numpy."""
    gamma = dist.Gamma(2.0, 1.5)
    if kind == "known":
        return jnp.asarray(PSI), Known(PSI)
    if kind == "wishart":
        prior = dist.InverseWishart(5.0, scale_matrix=jnp.asarray(PSI))
        return lambda: numpyro.sample("S", prior), Wishart(5.0, PSI)
    if kind == "gammas":
        prior = gamma.expand([D]).to_event(1)
        return lambda: numpyro.sample("S", prior) ** -0.5, Gammas(2.0, 1.5 * np.ones(D))
    if kind == "one":
        return lambda: numpyro.sample("S", gamma) ** -0.5, OneGamma(
            2.0, np.array([1.5]), D
        )
    variance = dist.InverseGamma(2.0, 1.5)
    return lambda: numpyro.sample("S", variance) ** 0.5, OneGamma(
        2.0, np.array([1.5]), D
    )


def normal(loc, spread):
    """A Gaussian vector with a covariance, or with deviations."""
    if jnp.ndim(spread) == 2:
        return dist.MultivariateNormal(loc, spread)
    return dist.Normal(loc, spread).to_event(1)


def groups(y, spread, top=None):
    if top is None:
        top = numpyro.sample("top", dist.MultivariateNormal(jnp.zeros(D), WIDE))
    spread = spread() if callable(spread) else spread
    with numpyro.plate("groups", G):
        mu = numpyro.sample("mu", normal(top, spread))
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.MultivariateNormal(mu[GROUP], NOISE), obs=y)


@pytest.mark.parametrize("kind", ["known", "wishart", "gammas", "one", "inverse"])
@pytest.mark.parametrize("learnt", [True, False], ids=["top", "known top"])
def test_means_of_groups_and_their_population(kind, learnt):
    spread, noise = spread_of(kind)
    if kind == "known" and not learnt:
        pytest.skip("nothing is learnt above")
    known = None if learnt else jnp.array([0.5, -0.5])
    guide, params, losses = fitted(groups, Y, spread, known)
    tree = Tree()
    if kind != "known":
        tree.noise(noise)
    parents, offset = [], np.array([0.5, -0.5])
    if learnt:
        top = tree.vector([], Known(WIDE))
        parents, offset = [(np.eye(D), top)], 0.0
    mu = [tree.vector(parents, noise, offset) for _ in range(G)]
    for y, g in zip(Y, GROUP):
        tree.see(y, [(np.eye(D), mu[g])], Known(NOISE))
    np.testing.assert_allclose(-losses[-1], tree.ascend(), rtol=1e-8)
    posteriors = guide.get_posterior(params)
    assert_is(posteriors, "mu", mu)
    if learnt:
        assert_is(posteriors, "top", [top])
