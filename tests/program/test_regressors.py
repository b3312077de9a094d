# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How learnt weights meet latent vectors: through graphs, and through arguments."""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.stats import multivariate_normal

import numpyro_svae as ns
from tests.data import make_svi
from tests.graphs_of_sites import LOADING, NOISE, hierarchy

KEY, CERTAIN = random.PRNGKey(0), 1e9
SCALES = np.array([1.0, -0.5])


def prior(scale=1.0):
    """A prior of loadings and noise that leaves nothing to learn."""
    eye, scale = jnp.eye(3), jnp.asarray(scale)[..., None, None]
    weight, noise = scale * jnp.asarray(LOADING), CERTAIN * NOISE * eye
    return ns.MatrixNormalInverseWishart(weight, CERTAIN * eye[:2, :2], CERTAIN, noise)


def learnt_hierarchy(y):
    """A hierarchy behind learnt loadings, as ``hierarchy`` is behind known ones."""
    weight, cov = ns.sample("loadings", prior())
    with numpyro.plate("groups", y.shape[1], dim=-1):
        fn = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))
        m = numpyro.sample("m", fn)
        with numpyro.plate("members", len(y), dim=-2):
            x = numpyro.sample("x", dist.MultivariateNormal(m, 0.5 * jnp.eye(2)))
            fn = dist.MultivariateNormal(x @ weight.T, cov)
            numpyro.sample("y", fn, obs=y)


def mapped(rows, y):
    """Vectors that a matrix among the arguments maps before learnt loadings do."""
    weight, cov = ns.sample("loadings", prior())
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        fn = dist.MultivariateNormal(x @ rows.T @ weight.T, cov)
        numpyro.sample("y", fn, obs=y)


def grouped(group, y, learnt=False):
    """Walks seen through the learnt loadings of their group, ``y (N, T, 3)``."""
    step = noise = jnp.eye(2)
    if learnt:
        dynamics = ns.MatrixNormalInverseWishart(step, step, 4.0, step)
        step, noise = ns.sample("dynamics", dynamics)
    with numpyro.plate("groups", 2):
        weights, covs = ns.sample("loadings", prior(SCALES))
    start = jnp.zeros(2), jnp.eye(2)
    with numpyro.plate("data", len(y)):
        walk = ns.LinearGaussianChain(*start, step, noise, num_steps=y.shape[1])
        x = numpyro.sample("x", walk)
        fn = dist.MultivariateNormal(x @ weights[group].mT, covs[group][:, None])
        numpyro.sample("y", fn.to_event(1), obs=y)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def guide_of(model, *args):
    """A guide that starts at the prior of the loadings, and its parameters."""
    guide = ns.AutoSVAE(model, init={"loadings": prior()})
    params = {"loadings_auto_natural": prior().natural_parameters}
    loss = ns.SVAE_ELBO().loss(KEY, params, model, guide, *args)
    return guide, params, float(loss)


def test_a_hierarchy_behind_learnt_loadings_is_that_behind_known_ones(x64):
    y = numbers(3, 2, 3)
    guide, params, loss = guide_of(learnt_hierarchy, y)
    known = ns.AutoSVAE(hierarchy)
    expected = ns.SVAE_ELBO().loss(KEY, {}, hierarchy, known, y)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    found, exact = guide.posterior_local(params, y), known.posterior_local({}, y)
    for name in ("m", "x"):
        np.testing.assert_allclose(found[name].mean, exact[name].mean, atol=1e-6)


def test_a_map_among_the_arguments_is_that_of_the_call(x64):
    first, second, y = numbers(2, 2), numbers(2, 2, seed=1), numbers(4, 3, seed=2)
    guide, params, _ = guide_of(mapped, first, y)
    for rows in (first, second):
        loading = LOADING @ np.asarray(rows)
        precision = np.eye(2) + loading.T @ loading / NOISE
        mean = np.linalg.solve(precision, loading.T @ y.T / NOISE).T
        found = guide.posterior_local(params, rows, y)["x"]
        np.testing.assert_allclose(found.mean, mean, atol=1e-6)


def test_walks_seen_through_loadings_that_data_pick(x64):
    y, group = numbers(3, 4, 3), np.array([1, 0, 1])
    svi = make_svi(grouped, ns.AutoSVAE(grouped, init={"loadings": prior(SCALES)}))
    found = svi.evaluate(svi.init(KEY, group, y), group, y)
    walk = np.kron(np.minimum.outer(range(1, 5), range(1, 5)), np.eye(2))
    evidence = 0.0
    for scale, own in zip(SCALES[group], np.reshape(y, (3, -1))):
        loading = np.kron(np.eye(4), scale * LOADING)
        cov = loading @ walk @ loading.T + NOISE * np.eye(12)
        evidence += multivariate_normal(np.zeros(12), cov).logpdf(own)
    np.testing.assert_allclose(found, -evidence, rtol=1e-5)


def test_dynamics_start_where_data_pick_the_loadings():
    y, group = numbers(3, 4, 3), np.array([1, 0, 1])
    model = partial(grouped, learnt=True)
    svi = make_svi(model, ns.AutoSVAE(model, num_starts=1))
    start = svi.init(KEY, group, y)
    assert np.isfinite(svi.evaluate(start, group, y))
