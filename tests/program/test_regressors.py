# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How learnt weights meet latent vectors: through graphs, and through arguments."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns
from tests.graphs_of_sites import LOADING, NOISE, hierarchy

KEY, CERTAIN = random.PRNGKey(0), 1e9


def prior():
    """A prior of loadings and noise that leaves nothing to learn."""
    eye = jnp.eye(3)
    weight, noise = jnp.asarray(LOADING), CERTAIN * NOISE * eye
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
