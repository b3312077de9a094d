# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs with discrete chains that the tests share."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns
from tests.models import decoder, encoder, vector_prior

INITIAL = np.array([0.6, 0.4])
ROWS = np.array([[0.8, 0.2], [0.3, 0.7]])
LOC = np.array([[0.0, 0.5], [1.5, -0.5]])
SPREAD = np.array([0.5, 0.8])
NOISE = 0.4
TURNS = np.array([[[0.9, 0.3], [-0.3, 0.9]], [[0.6, -0.4], [0.4, 0.6]]])
DRIVE = np.array([[[0.2], [0.1]], [[-0.5], [0.3]]])
STEP_NOISE = np.array([0.1, 0.3])


def known_hmm(y, loc=LOC, lengths=None, mask=None):
    """A hidden Markov model of known parameters, its Gaussians seen with noise."""
    with numpyro.plate("sequences", len(y)):
        chain = ns.DiscreteMarkovChain(
            jnp.asarray(INITIAL), jnp.asarray(ROWS), y.shape[1], lengths=lengths
        )
        z = numpyro.sample("z", chain)
        cov = jnp.asarray(SPREAD)[z][..., None, None] * jnp.eye(2)
        gaussian = dist.MultivariateNormal(jnp.asarray(loc)[z], cov)
        if mask is not None:
            gaussian = gaussian.mask(mask)
        x = numpyro.sample("x", gaussian.to_event(1))
        seen = dist.MultivariateNormal(x, NOISE * jnp.eye(2))
        if lengths is not None:
            exists = jnp.arange(y.shape[1]) < lengths[:, None]
            mask = exists if mask is None else mask & exists
        if mask is not None:
            seen = seen.mask(mask)
        numpyro.sample("y", seen.to_event(1), obs=y)


def known_slds(y, actions=None, weight=None, lengths=None, mask=None):
    """A switching dynamical system of known parameters."""
    weight = TURNS if weight is None else weight
    if actions is not None:
        weight = jnp.concatenate([jnp.asarray(weight), jnp.asarray(DRIVE)], -1)
    weight = jnp.asarray(weight)
    noise = jnp.asarray(STEP_NOISE)[:, None, None] * jnp.eye(2)
    with numpyro.plate("sequences", len(y)):
        states = ns.DiscreteMarkovChain(
            jnp.asarray(INITIAL), jnp.asarray(ROWS), y.shape[1], lengths=lengths
        )
        z = numpyro.sample("z", states)
        chain = ns.LinearGaussianChain(
            jnp.zeros(2),
            jnp.eye(2),
            weight[z[..., 1:]],
            noise[z[..., 1:]],
            inputs=actions,
            num_steps=y.shape[1],
            lengths=lengths,
        )
        x = numpyro.sample("x", chain)
        seen = dist.MultivariateNormal(x, NOISE * jnp.eye(2))
        if lengths is not None:
            exists = jnp.arange(y.shape[1]) < lengths[:, None]
            mask = exists if mask is None else mask & exists
        if mask is not None:
            seen = seen.mask(mask)
        numpyro.sample("y", seen.to_event(1), obs=y)


def chain_priors(count, sticky=0.0):
    """Dirichlet priors of the first state and of the rows of a transition."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(count)))
    with numpyro.plate("states", count):
        rows = numpyro.sample(
            "rows", dist.Dirichlet(jnp.ones(count) + sticky * jnp.eye(count))
        )
    return initial, rows


def dynamics_priors(count, dim, width):
    """Matrix-normal-inverse-Wishart priors of the dynamics of each state."""
    loc = 0.9 * jnp.eye(dim, dim + width)
    prior = ns.MatrixNormalInverseWishart(
        loc, jnp.eye(dim + width), dim + 2.0, 0.1 * jnp.eye(dim)
    )
    with numpyro.plate("regimes", count):
        return ns.sample("dynamics", prior)


def hmm(y=None, labels=None, *, count=2, shape=(4, 6), lengths=None):
    """A hidden Markov model with Gaussian observations, all of it to be learnt."""
    shape = shape if y is None else y.shape[:2]
    initial, rows = chain_priors(count)
    loc, cov = vector_prior("components", 2, count)
    with numpyro.plate("sequences", shape[0]):
        chain = ns.DiscreteMarkovChain(initial, rows, shape[1], lengths=lengths)
        z = numpyro.sample("z", chain, obs=labels)
        fn = dist.MultivariateNormal(loc[z], cov[z])
        if lengths is not None:
            fn = fn.mask(jnp.arange(shape[1]) < lengths[:, None])
        numpyro.sample("y", fn.to_event(1), obs=y)


def hmm_svae(y=None, *, count=2, shape=(4, 6), subsample=None):
    """A hidden Markov model behind a nonlinear decoder."""
    shape = shape if y is None else y.shape[:2]
    initial, rows = chain_priors(count)
    loc, cov = vector_prior("components", 2, count)
    with numpyro.plate("sequences", shape[0], subsample_size=subsample) as index:
        z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, shape[1]))
        gaussian = dist.MultivariateNormal(loc[z], cov[z]).to_event(1)
        x = numpyro.sample("x", gaussian)
        batch = None if y is None else y[index]
        numpyro.sample("y", dist.Normal(decoder(x), 0.3).to_event(2), obs=batch)


def slds_svae(y=None, actions=None, *, count=2, shape=(4, 6), subsample=None):
    """A switching dynamical system with actions behind a nonlinear decoder."""
    shape = shape if y is None else y.shape[:2]
    width = 0 if actions is None else actions.shape[-1]
    initial, rows = chain_priors(count, sticky=2.0)
    start = vector_prior("init", 2)
    weight, noise = dynamics_priors(count, 2, width)
    with numpyro.plate("sequences", shape[0], subsample_size=subsample) as index:
        z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, shape[1]))
        chain = ns.LinearGaussianChain(
            *start,
            weight[z[..., 1:]],
            noise[z[..., 1:]],
            inputs=None if actions is None else actions[index],
            num_steps=shape[1],
        )
        x = numpyro.sample("x", chain)
        batch = None if y is None else y[index]
        numpyro.sample("y", dist.Normal(decoder(x), 0.3).to_event(2), obs=batch)


def autoregressive_hmm(x=None, actions=None, *, count=2):
    """A switching dynamical system whose states are seen."""
    width = 0 if actions is None else actions.shape[-1]
    initial, rows = chain_priors(count)
    start = vector_prior("init", x.shape[-1])
    weight, noise = dynamics_priors(count, x.shape[-1], width)
    with numpyro.plate("sequences", len(x)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, x.shape[1]))
        chain = ns.LinearGaussianChain(
            *start, weight[z[..., 1:]], noise[z[..., 1:]], inputs=actions
        )
        numpyro.sample("x", chain, obs=x)


def recognition(y=None, actions=None, *, subsample=None, **kwargs):
    """Recognition of the models with a decoder."""
    with numpyro.plate("sequences", len(y), subsample_size=subsample) as index:
        return {"x": encoder(y[index])}
