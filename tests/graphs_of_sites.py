# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs whose local sites form general graphs."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns
from tests.models import decoder, encoder, vector_prior
from tests.switching import INITIAL, ROWS, STEP_NOISE, TURNS, chain_priors

LOADING = np.array([[1.0, 0.4], [-0.3, 0.8], [0.5, -0.9]])
NOISE = 0.4


def hierarchy(y, between=1.0, within=0.5):
    """Groups and their members, ``y (members, groups, 3)``."""
    members, groups = y.shape[:2]
    eye = jnp.eye(2)
    with numpyro.plate("groups", groups, dim=-1):
        m = numpyro.sample("m", dist.MultivariateNormal(jnp.zeros(2), between * eye))
        with numpyro.plate("members", members, dim=-2):
            x = numpyro.sample("x", dist.MultivariateNormal(m, within * eye))
            loc = x @ jnp.asarray(LOADING).T
            seen = dist.MultivariateNormal(loc, NOISE * jnp.eye(3))
            numpyro.sample("y", seen, obs=y)


def nested_labels(y):
    """A label of each group picks those of its members, ``y (members, groups)``."""
    members, groups = y.shape
    with numpyro.plate("groups", groups, dim=-1):
        g = numpyro.sample("g", dist.Categorical(jnp.asarray(INITIAL)))
        with numpyro.plate("members", members, dim=-2):
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[g]))
            numpyro.sample("y", dist.Normal(jnp.array([-1.0, 1.0])[z], 1.0), obs=y)


def factorial(y):
    """Two labels whose effects add up, and a Gaussian of each."""
    with numpyro.plate("data", len(y)):
        a = numpyro.sample("a", dist.Categorical(jnp.array([0.4, 0.6])))
        b = numpyro.sample("b", dist.Categorical(jnp.array([0.3, 0.3, 0.4])))
        u = numpyro.sample("u", dist.Normal(jnp.zeros(1), 0.7).to_event(1))
        v = numpyro.sample("v", dist.Normal(jnp.ones(1), 0.5).to_event(1))
        loc = jnp.array([-1.0, 1.0])[a] + jnp.array([-2.0, 0.0, 2.0])[b]
        fn = dist.Normal(loc[..., None] + u - 2 * v, 1.0).to_event(1)
        numpyro.sample("y", fn, obs=y[:, None])


def linear_regression(x, y):
    """Weights that all data share."""
    prior = dist.MultivariateNormal(jnp.zeros(x.shape[1]), jnp.eye(x.shape[1]))
    w = numpyro.sample("w", prior)
    with numpyro.plate("data", len(y)):
        fn = dist.Normal((x @ w)[:, None], 0.5).to_event(1)
        numpyro.sample("y", fn, obs=y[:, None])


def stepwise_hmm(y):
    """A hidden Markov model, one site for each step, to be learnt."""
    initial, rows = chain_priors(2)
    loc, cov = vector_prior("components", 2, 2)
    with numpyro.plate("sequences", len(y)):
        z = None
        for t in range(y.shape[1]):
            probs = initial if z is None else rows[z]
            z = numpyro.sample(f"z{t}", dist.Categorical(probs))
            fn = dist.MultivariateNormal(loc[z], cov[z])
            numpyro.sample(f"y{t}", fn, obs=y[:, t])


def stepwise_lds(y):
    """A linear dynamical system, one site for each step."""
    with numpyro.plate("sequences", len(y)):
        x = jnp.zeros(2)
        cov = jnp.eye(2)
        for t in range(y.shape[1]):
            x = numpyro.sample(f"x{t}", dist.MultivariateNormal(x, cov))
            seen = dist.MultivariateNormal(x, NOISE * jnp.eye(2))
            numpyro.sample(f"y{t}", seen, obs=y[:, t])
            x, cov = x @ jnp.asarray(TURNS[0]).T, STEP_NOISE[0] * jnp.eye(2)


def onesite_lds(y):
    """The same system as one site."""
    with numpyro.plate("sequences", len(y)):
        chain = ns.LinearGaussianChain(
            jnp.zeros(2),
            jnp.eye(2),
            jnp.asarray(TURNS[0]),
            STEP_NOISE[0] * jnp.eye(2),
            num_steps=y.shape[1],
        )
        x = numpyro.sample("x", chain)
        seen = dist.MultivariateNormal(x, NOISE * jnp.eye(2)).to_event(1)
        numpyro.sample("y", seen, obs=y)


def hierarchy_svae(y=None, *, shape=(4, 3)):
    """Groups and members with means to be learnt, behind a decoder."""
    members, groups = shape if y is None else y.shape[:2]
    loc, cov = vector_prior("population", 2)
    with numpyro.plate("groups", groups, dim=-1):
        m = numpyro.sample("m", dist.MultivariateNormal(loc, cov))
        with numpyro.plate("members", members, dim=-2):
            x = numpyro.sample("x", dist.MultivariateNormal(m, 0.5 * jnp.eye(2)))
            numpyro.sample("y", dist.Normal(decoder(x), 0.3).to_event(1), obs=y)


def members_recognised(y=None, **kwargs):
    """Recognition of the members."""
    return {"x": encoder(y)}
