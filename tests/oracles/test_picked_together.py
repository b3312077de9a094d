# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Components that several discrete sites, or a site and data, pick together.

Programs are compared with others that have one label for all of them.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from numpyro_svae.families import RegressionNatural
from tests.data import make_svi, steps

pytestmark = pytest.mark.x64

N, T, D, A, B = 6, 3, 2, 2, 3
RNG = np.random.default_rng(0)
Y, X = RNG.standard_normal((2, N, D))
SEQUENCES = RNG.standard_normal((N, T, D))
FIRST, SECOND = np.array([0.3, 0.7]), np.array([0.2, 0.5, 0.3])
BOTH = np.outer(FIRST, SECOND).ravel()
REGION = np.arange(N) % B
LOADINGS = RNG.standard_normal((A * B, D, D))


def regressions(columns):
    """A posterior of components that differ."""
    rng = np.random.default_rng(1)
    loc = jnp.asarray(rng.standard_normal((A * B, D, columns)))
    tril = jnp.broadcast_to(jnp.eye(columns), (A * B, columns, columns))
    scale = jnp.broadcast_to(2.0 * jnp.eye(D), (A * B, D, D))
    return RegressionNatural.from_standard(loc, tril, scale, 7.0 * jnp.ones(A * B))


def components():
    prior = ns.NormalInverseWishart(jnp.zeros(D), 0.2, 5.0, jnp.eye(D))
    with numpyro.plate("components", A * B):
        return ns.sample("pair", prior)


def weights():
    eye = jnp.eye(D)
    prior = ns.MatrixNormalInverseWishart(jnp.zeros((D, D)), eye, 5.0, eye)
    with numpyro.plate("components", A * B):
        return ns.sample("pair", prior)


def centres(y, labels):
    mu, cov = components()
    with numpyro.plate("data", N):
        k = labels()
        numpyro.sample("y", dist.MultivariateNormal(mu[k], cov[k]), obs=y)


def latent(y, labels):
    mu, cov = components()
    with numpyro.plate("data", N):
        k = labels()
        x = numpyro.sample("x", dist.MultivariateNormal(mu[k], cov[k]))
        numpyro.sample("y", dist.MultivariateNormal(x, 0.3 * jnp.eye(D)), obs=y)


def loadings(y, labels):
    weight, cov = weights()
    with numpyro.plate("data", N):
        k = labels()
        x = numpyro.sample("x", dist.Normal(0, 1).expand([N, D]).to_event(1))
        loc = (weight[k] @ x[..., None])[..., 0]
        numpyro.sample("y", dist.MultivariateNormal(loc, cov[k]), obs=y)


def beside(y, labels):
    """Known loadings, and noises that are known, beside learnt means."""
    normal = dist.Normal(0, 1).expand([D]).to_event(1)
    with numpyro.plate("components", A * B):
        mu = numpyro.sample("pair", normal)
    noise = jnp.asarray(np.linspace(0.3, 0.9, A * B))
    with numpyro.plate("data", N):
        k = labels()
        x = numpyro.sample("x", dist.Normal(0, 1).expand([N, D]).to_event(1))
        loc = mu[k] + (jnp.asarray(LOADINGS)[k] @ x[..., None])[..., 0]
        scale = noise[k][..., None]
        numpyro.sample("y", dist.Normal(loc, scale).to_event(1), obs=y)


def two():
    first = numpyro.sample("first", dist.Categorical(FIRST))
    return first * B + numpyro.sample("second", dist.Categorical(SECOND))


def one():
    return numpyro.sample("both", dist.Categorical(BOTH))


def normals():
    loc = np.random.default_rng(1).standard_normal((A * B, D))
    return dist.Normal(jnp.asarray(loc), 0.3).to_event(1)


def moved(model, y, start, *args):
    """The loss, and natural parameters after one whole natural step."""
    guide = ns.AutoSVAE(model, init={"pair": start}, num_starts=1)
    params, losses = steps(make_svi(model, guide), 1, y, *args)
    return losses[0], {n: p for n, p in params.items() if "pair" in n}


def assert_alike(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8),
        found,
        expected,
    )


@pytest.mark.parametrize(
    ("model", "columns"),
    [(centres, 1), (latent, 1), (loadings, D), (beside, 0)],
    ids=["centres", "latent", "loadings", "known-beside"],
)
def test_two_labels_are_one_label_of_all_pairs(model, columns):
    start = regressions(columns) if columns else normals()
    expected = moved(model, Y, start, one)
    assert_alike(moved(model, Y, start, two), expected)


def test_a_label_and_data_are_a_label_of_all_pairs_that_are_known_in_part():
    def known(probs):
        own = jnp.arange(A * B) % B == REGION[:, None]
        return jnp.where(own, jnp.repeat(FIRST, B), 0.0)

    def picked():
        return numpyro.sample("first", dist.Categorical(FIRST)) * B + REGION

    def among_all():
        return numpyro.sample("both", dist.Categorical(known(BOTH)))

    start = regressions(1)
    expected = moved(latent, Y, start, among_all)
    assert_alike(moved(latent, Y, start, picked), expected)


def test_a_path_of_states_and_known_loadings_are_exact():
    """The bound is the evidence, from sums over the states of each step."""
    loadings, noise = LOADINGS[:B], np.linspace(0.3, 0.6, B)
    steps_of = 0.7 * np.eye(B) + 0.1

    def model(y):
        with numpyro.plate("data", N):
            z = numpyro.sample("z", ns.DiscreteMarkovChain(SECOND, steps_of, T))
            x = numpyro.sample("x", dist.Normal(0, 1).expand([N, T, D]).to_event(2))
            loc = (jnp.asarray(loadings)[z] @ x[..., None])[..., 0]
            cov = jnp.asarray(noise)[z][..., None, None] * jnp.eye(D)
            seen = dist.MultivariateNormal(loc, cov).to_event(1)
            numpyro.sample("y", seen, obs=y)

    svi = make_svi(model, ns.AutoSVAE(model))
    state = svi.init(jax.random.PRNGKey(0), SEQUENCES)
    covs = loadings @ loadings.swapaxes(-1, -2) + noise[:, None, None] * np.eye(D)
    parts = [multivariate_normal.logpdf(SEQUENCES, np.zeros(D), c) for c in covs]
    scores = np.stack(parts, -1)
    alpha = np.log(SECOND) + scores[:, 0]
    for t in range(1, T):
        alpha = logsumexp(alpha[..., None] + np.log(steps_of), 1) + scores[:, t]
    expected = logsumexp(alpha, 1).sum()
    np.testing.assert_allclose(-svi.evaluate(state, SEQUENCES), expected, rtol=1e-10)


def test_a_label_that_lasts_and_a_state_are_a_product():
    """The bound is that of a brute force over paths at the product that was found."""

    def model(y):
        mu, cov = components()
        with numpyro.plate("data", N):
            label = numpyro.sample("label", dist.Categorical(FIRST))
            chain = ns.DiscreteMarkovChain(SECOND, 0.7 * jnp.eye(B) + 0.1, T)
            k = label[..., None] * B + numpyro.sample("z", chain)
            normal = dist.MultivariateNormal(mu[k], cov[k])
            numpyro.sample("y", normal.to_event(1), obs=y)

    given = regressions(1)
    guide = ns.AutoSVAE(model, init={"pair": given}, num_starts=1)
    svi = make_svi(model, guide)
    state = svi.init(jax.random.PRNGKey(0), SEQUENCES)
    params = svi.get_params(state)
    marginals = guide.posterior_local(params, SEQUENCES)
    probs, path = np.asarray(marginals["label"].probs), marginals["z"]
    moments = given.moments()
    residual = SEQUENCES[..., None, :] - np.asarray(moments.weight[..., 0])
    cov = np.asarray(moments.covariance)
    scores = -0.5 * np.einsum(
        "ntki,ntki->ntk", residual, np.linalg.solve(cov, residual[..., None])[..., 0]
    )
    scores = scores - 0.5 * (moments.log_det + moments.excess[..., 0, 0])
    scores = np.asarray(scores - 0.5 * D * np.log(2 * np.pi)).reshape(N, T, A, B)
    steps_of = np.log(0.7 * np.eye(B) + 0.1)
    bound = np.zeros(N)
    for z in np.ndindex(*(B,) * T):
        own = np.exp(np.asarray(path.log_prob(np.array(z))))
        prior = np.log(SECOND[z[0]]) + sum(steps_of[i, j] for i, j in pairwise(z))
        for a in range(A):
            weight = own * probs[:, a]
            likelihood = sum(scores[:, t, a, z[t]] for t in range(T))
            entropy = -np.log(own) - np.log(probs[:, a])
            bound += weight * (likelihood + prior + np.log(FIRST[a]) + entropy)
    prior = ns.NormalInverseWishart(jnp.zeros(D), 0.2, 5.0, jnp.eye(D))
    prior = prior.natural_parameters
    prior = jax.tree.map(lambda x: jnp.broadcast_to(x, (A * B, *x.shape)), prior)
    kl = jnp.sum(given.kl(prior))
    loss = svi.evaluate(state, SEQUENCES)
    np.testing.assert_allclose(-loss, bound.sum() - kl, rtol=1e-9)
