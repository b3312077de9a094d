# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs whose chains meet: in an observation, or in a site that they share."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns
from tests.switching import INITIAL, ROWS, STEP_NOISE, TURNS

LOADING = np.array([[1.0, 0.4], [-0.3, 0.8]])
SECOND = np.array([[0.7], [-1.0]])
EFFECTS = np.array([[-1.0, 0.5, 2.0], [0.3, -0.8, 1.0]])
LEVELS = np.array([[0.5, -1.0], [-0.5, 0.2], [1.5, 1.0]])
ROWS_OF_THREE = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
NOISE = 0.4


def turning(name, steps, weight=TURNS[0]):
    """A latent path in the plane."""
    noise = STEP_NOISE[0] * jnp.eye(2)
    start = jnp.array([1.0, 0.0]), jnp.eye(2)
    chain = ns.LinearGaussianChain(*start, jnp.asarray(weight), noise, num_steps=steps)
    return numpyro.sample(name, chain)


def drifting(name, steps):
    """A latent path on a line."""
    noise = 0.3 * jnp.eye(1)
    chain = ns.LinearGaussianChain(
        -jnp.ones(1), jnp.eye(1), 0.8 * jnp.eye(1), noise, num_steps=steps
    )
    return numpyro.sample(name, chain)


def labels(name, steps):
    """A latent path of two states."""
    chain = ns.DiscreteMarkovChain(jnp.asarray(INITIAL), jnp.asarray(ROWS), steps)
    return numpyro.sample(name, chain)


def seen(y, loc, mask=None):
    """A vector at each step, with noise."""
    fn = dist.MultivariateNormal(loc, NOISE * jnp.eye(y.shape[-1]))
    fn = fn if mask is None else fn.mask(mask)
    numpyro.sample("y", fn.to_event(1), obs=y)


def two_chains(y, loading=LOADING, mask=None):
    """The effects of two paths add up."""
    with numpyro.plate("sequences", len(y)):
        x, w = turning("x", y.shape[1]), drifting("w", y.shape[1])
        seen(y, x @ jnp.asarray(loading).T + w @ jnp.asarray(SECOND).T, mask)


def chain_and_offset(y):
    """A path, and a vector that lasts, in one observation."""
    with numpyro.plate("sequences", len(y)):
        x = turning("x", y.shape[1])
        u = numpyro.sample("u", dist.Normal(0.5 * jnp.ones(1), 0.8).to_event(1))
        lasting = u[..., None, :] @ jnp.asarray(SECOND).T
        seen(y, x @ jnp.asarray(LOADING).T + lasting)


def grouped_offsets(y, subsample=None):
    """The same with a mean that sequences share, and a noisy path in between."""
    m = numpyro.sample("m", dist.Normal(jnp.zeros(1), 2.0).to_event(1))
    with numpyro.plate("sequences", len(y), subsample_size=subsample) as index:
        y = jnp.asarray(y)[index]
        x = turning("x", y.shape[1])
        u = numpyro.sample("u", dist.Normal(m, 0.8).to_event(1))
        v = numpyro.sample("v", dist.Normal(x, 0.6).to_event(2))
        lasting = u[..., None, :] @ jnp.asarray(SECOND).T
        seen(y, v @ jnp.asarray(LOADING).T + lasting)


def chain_and_label(y):
    """A path, and a label that lasts, in one observation."""
    with numpyro.plate("sequences", len(y)):
        x = turning("x", y.shape[1])
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))
        seen(y, x @ jnp.asarray(LOADING).T + jnp.asarray(LEVELS)[k][..., None, :])


def factorial_hmm(y, effects=EFFECTS):
    """Two paths of states pick the mean together."""
    with numpyro.plate("sequences", len(y)):
        a = labels("a", y.shape[1])
        initial = jnp.array([0.2, 0.5, 0.3])
        chain = ns.DiscreteMarkovChain(initial, jnp.asarray(ROWS_OF_THREE), y.shape[1])
        b = numpyro.sample("b", chain)
        fn = dist.Normal(jnp.asarray(effects)[a, b], 0.7)
        numpyro.sample("y", fn.to_event(1), obs=y[..., 0])


def shared_regime(y):
    """One path of states picks the dynamics of two paths that are seen together."""
    noise = jnp.asarray(STEP_NOISE)[:, None, None]
    with numpyro.plate("sequences", len(y)):
        z = labels("z", y.shape[1])
        chain = ns.LinearGaussianChain(
            jnp.zeros(2),
            jnp.eye(2),
            jnp.asarray(TURNS)[z[..., 1:]],
            (noise * jnp.eye(2))[z[..., 1:]],
            num_steps=y.shape[1],
        )
        x = numpyro.sample("x", chain)
        chain = ns.LinearGaussianChain(
            jnp.ones(1),
            jnp.eye(1),
            jnp.array([[[0.9]], [[-0.5]]])[z[..., 1:]],
            noise[z[..., 1:]],
            num_steps=y.shape[1],
        )
        w = numpyro.sample("w", chain)
        seen(y, x @ jnp.asarray(LOADING).T + w @ jnp.asarray(SECOND).T)


def regime_and_label(y):
    """A path of states and a label pick a vector that a path and it add up to."""
    with numpyro.plate("sequences", len(y)):
        z = labels("z", y.shape[1])
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.3, 0.7])))
        x = turning("x", y.shape[1])
        level = jnp.stack([jnp.asarray(LEVELS), -2 * jnp.asarray(LEVELS)])
        seen(y, x @ jnp.asarray(LOADING).T + level[k[..., None], z])


def learnt_sum(y):
    """Two paths and a vector that lasts, whose effects are to be learnt."""
    parts = [jnp.asarray(LOADING), jnp.asarray(SECOND), jnp.ones((2, 1))]
    prior = jnp.concatenate(parts, -1), jnp.eye(4), 6.0, 2.0 * jnp.eye(2)
    weight, noise = ns.sample("emission", ns.MatrixNormalInverseWishart(*prior))
    with numpyro.plate("sequences", len(y)):
        x, w = turning("x", y.shape[1]), drifting("w", y.shape[1])
        u = numpyro.sample("u", dist.Normal(0.5 * jnp.ones(1), 0.8).to_event(1))
        u = jnp.broadcast_to(u[..., None, :], w.shape)
        loc = jnp.concatenate([x, w, u], -1) @ weight.T
        fn = dist.MultivariateNormal(loc, noise)
        numpyro.sample("y", fn.to_event(1), obs=y)


def learnt_choice(y):
    """States pick what is seen, at each step, of a vector that lasts."""
    loc = jnp.stack([jnp.asarray(LOADING), -jnp.asarray(LOADING)])
    prior = loc, jnp.eye(2), 6.0, 2.0 * jnp.eye(2)
    with numpyro.plate("regimes", 2):
        weight, noise = ns.sample("emission", ns.MatrixNormalInverseWishart(*prior))
    with numpyro.plate("sequences", len(y)):
        z = labels("z", y.shape[1])
        u = numpyro.sample("u", dist.MultivariateNormal(jnp.ones(2), jnp.eye(2)))
        loc = (weight[z] @ u[..., None, :, None])[..., 0]
        fn = dist.MultivariateNormal(loc, noise[z])
        numpyro.sample("y", fn.to_event(1), obs=y)
