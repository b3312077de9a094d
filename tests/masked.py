# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs with masks on their latent sites."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask

import numpyro_svae as ns
from tests.coupled import labels, turning
from tests.graphs_of_sites import LOADING, NOISE
from tests.models import vector_prior
from tests.switching import LOC, SPREAD


def masked_hierarchy(y, groups, members):
    """Groups and members, ``y (members, groups, 3)``, of which some do not exist.

    :param groups: which groups there are, ``(groups,)``.
    :param members: which members there are, ``(members, groups)``.
    """
    loc, cov = vector_prior("population", 2)
    with numpyro.plate("groups", y.shape[1], dim=-1):
        with mask(mask=groups):
            m = numpyro.sample("m", dist.MultivariateNormal(loc, cov))
        with numpyro.plate("members", y.shape[0], dim=-2), mask(mask=members):
            x = numpyro.sample("x", dist.MultivariateNormal(m, 0.5 * jnp.eye(2)))
            seen = x @ jnp.asarray(LOADING).T
            fn = dist.MultivariateNormal(seen, NOISE * jnp.eye(3))
            numpyro.sample("y", fn, obs=y)


def masked_hmm(y, states, vectors):
    """A hidden Markov model with sequences and vectors that are masked, y being not.

    :param states: which sequences of states count, ``(N,)``.
    :param vectors: which vectors count, ``(N, T)``.
    """
    with numpyro.plate("sequences", len(y)):
        with mask(mask=states):
            z = labels("z", y.shape[1])
        cov = jnp.asarray(SPREAD)[z][..., None, None] * jnp.eye(2)
        gaussian = dist.MultivariateNormal(jnp.asarray(LOC)[z], cov)
        x = numpyro.sample("x", gaussian.mask(vectors).to_event(1))
        seen = dist.MultivariateNormal(x, NOISE * jnp.eye(2))
        numpyro.sample("y", seen.to_event(1), obs=y)


def masked_paths(y, paths, offsets):
    """A path, and a vector that lasts, in one observation.

    :param paths: which paths count, ``(N,)``.
    :param offsets: which vectors count, ``(N,)``.
    """
    with numpyro.plate("sequences", len(y)):
        with mask(mask=paths):
            x = turning("x", y.shape[1])
        with mask(mask=offsets):
            u = numpyro.sample("u", dist.Normal(jnp.ones(2), 0.8).to_event(1))
        fn = dist.MultivariateNormal(x + u[..., None, :], NOISE * jnp.eye(2))
        numpyro.sample("y", fn.to_event(1), obs=y)


def masked_graph(y, roots, leaves):
    """Labels and vectors that depend on each other, y being seen of all.

    :param roots: which labels count, ``(N,)``.
    :param leaves: which vectors count, ``(N,)``.
    """
    with numpyro.plate("data", len(y)):
        with mask(mask=roots):
            a = numpyro.sample("a", dist.Categorical(jnp.array([0.4, 0.6])))
        b = numpyro.sample(
            "b", dist.Categorical(jnp.array([[0.3, 0.7], [0.6, 0.4]])[a])
        )
        loc = jnp.asarray(LOC)[a]
        with mask(mask=leaves):
            x = numpyro.sample("x", dist.MultivariateNormal(loc, 0.6 * jnp.eye(2)))
        w = numpyro.sample("w", dist.MultivariateNormal(x, 0.5 * jnp.eye(2)))
        fn = dist.MultivariateNormal(w + jnp.asarray(LOC)[b], NOISE * jnp.eye(2))
        numpyro.sample("y", fn, obs=y)


def masked_autoregression(x, sequences):
    """A path that is seen, of some sequences."""
    weight, noise = ns.sample(
        "dynamics",
        ns.MatrixNormalInverseWishart(jnp.eye(2), jnp.eye(2), 4.0, jnp.eye(2)),
    )
    with numpyro.plate("sequences", len(x)), mask(mask=sequences):
        chain = ns.LinearGaussianChain(
            jnp.zeros(2), jnp.eye(2), weight, noise, num_steps=x.shape[1]
        )
        numpyro.sample("x", chain, obs=x)
