# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Data that count several times are worth what data given that many times are."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import scale
from numpyro.infer import SVI, Trace_ELBO
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.training import anneal_kl
from tests.data import clusters, make_svi, sequences
from tests.models import chain_of, matrix_prior, vector_prior

EYE = jnp.eye(2)


def vectors(y, times):
    loc, cov = vector_prior("top", 2)
    with scale(scale=times), numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(loc, cov))
        numpyro.sample("y", dist.MultivariateNormal(x, 0.5 * EYE), obs=y)


def mixtures(y, times):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    loc, cov = vector_prior("top", 2, 3)
    with numpyro.plate("data", len(y)), scale(scale=times):
        z = numpyro.sample("z", dist.Categorical(weights))
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov[z]))
        numpyro.sample("y", dist.MultivariateNormal(x, 0.5 * EYE), obs=y)


def states(y, times):
    rows = jnp.array([[0.8, 0.2], [0.3, 0.7]])
    loc, cov = vector_prior("top", 2, 2)
    with scale(scale=times), numpyro.plate("data", len(y)):
        chain = ns.DiscreteMarkovChain(jnp.ones(2) / 2, rows, num_steps=y.shape[1])
        z = numpyro.sample("z", chain)
        fn = dist.MultivariateNormal(loc[z], cov[z]).to_event(1)
        numpyro.sample("y", fn, obs=y)


def paths(y, times):
    F, Q = matrix_prior("top", 0.9 * EYE)
    with scale(scale=times), numpyro.plate("data", len(y)) as index:
        start = jnp.zeros(2), EYE
        x = numpyro.sample("x", chain_of(start, (F, Q), None, index, y.shape[1]))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(2), obs=y)


def scanned(y, times):
    F, Q = matrix_prior("top", 0.9 * EYE)

    def step(x, y):
        with scale(scale=times), numpyro.plate("data", y.shape[0]):
            x = numpyro.sample("x", dist.MultivariateNormal(x @ F.T, Q))
            numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)
        return x, None

    with scale(scale=times), numpyro.plate("data", len(y)):
        x = numpyro.sample("first", dist.MultivariateNormal(jnp.zeros(2), EYE))
    scan(step, x, jnp.swapaxes(y, 0, 1))


def groups(y, times):
    """A graph: vectors around a vector, in plates within plates."""
    with scale(scale=times), numpyro.plate("data", len(y), dim=-2):
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.zeros(2), EYE))
        with numpyro.plate("members", y.shape[1], dim=-1):
            x = numpyro.sample("x", dist.MultivariateNormal(mean, 0.4 * EYE))
            numpyro.sample("y", dist.MultivariateNormal(x, 0.5 * EYE), obs=y)


POINTS, PATHS = clusters(8)[0], sequences(outputs=2)[0]
PROGRAMS = {
    "vectors": (vectors, POINTS, {}),
    "mixtures": (mixtures, POINTS, {}),
    "mean field": (mixtures, POINTS, {"mean_field": True}),
    "states": (states, PATHS, {}),
    "paths": (paths, PATHS, {}),
    "scanned": (scanned, PATHS, {}),
    "groups": (groups, PATHS, {}),
}


def value_and_gradient(svi, params, y, times):
    def loss(params):
        return svi.loss.loss(random.PRNGKey(1), params, svi.model, svi.guide, y, times)

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_same(found, expected):
    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)

    jax.tree.map(same, found, expected)


@pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_scale_is_worth_repetitions(x64, name):
    model, y, options = PROGRAMS[name]
    y = jnp.asarray(y, float)
    if options:
        options = {**options, "fixed_point": ns.FixedPoint(tolerance=1e-12)}
    guide, other = (ns.AutoSVAE(model, num_starts=1, **options) for _ in range(2))
    svi, plain = make_svi(model, guide), make_svi(model, other)
    params = svi.get_params(svi.init(random.PRNGKey(0), y, 3.0))
    repeated = jnp.repeat(y, 3, 0)
    expected = value_and_gradient(plain, params, repeated, 1.0)
    assert_same(value_and_gradient(svi, params, y, 3.0), expected)


def test_trace_elbo_agrees(x64):
    y = jnp.asarray(POINTS, float)
    guide = ns.AutoSVAE(vectors)
    svi = make_svi(vectors, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), y, 0.4))
    ours, _ = value_and_gradient(svi, params, y, 0.4)
    args = random.PRNGKey(2), params, vectors, guide, y, 0.4
    theirs = jax.jit(Trace_ELBO(num_particles=40_000).loss, static_argnums=(2, 3))
    np.testing.assert_allclose(ours, theirs(*args), rtol=3e-3)


def test_annealing_weighs_what_is_scaled(x64):
    """The guide's own scale is times that of the model."""
    y = jnp.asarray(POINTS, float)
    guide = ns.AutoSVAE(vectors)
    annealed = anneal_kl(guide, lambda step: 0.25)
    svi = SVI(vectors, annealed, ns.svae_optimizer(optax.sgd(0.1)), ns.SVAE_ELBO())
    state = svi.init(random.PRNGKey(0), y, 2.0)
    params, key = svi.get_params(state), random.PRNGKey(0)
    terms = ns.SVAE_ELBO(sum_sites=False).loss(key, params, vectors, guide, y, 2.0)
    _, loss = svi.update(state, y, 2.0)
    expected = terms["y"] + 0.25 * (terms["x"] + terms["top"])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "site"),
    [
        (scale(lambda y: vectors(y, 1.0), 0.5), "'top'.*scale of 0.5 for a global"),
        (lambda y: vectors(y, jnp.ones(8)), r"'x': found an array of shape \(8,\)"),
    ],
)
def test_scales_that_mean_nothing_are_named(model, site):
    with pytest.raises(ValueError, match=site):
        ns.AutoSVAE(model)._setup_prototype(POINTS)
