# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs whose states have logits of a latent vector or of inputs."""

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist

import numpyro_svae as ns

FIRST = np.array([0.6, 0.4])
MAPS = np.array([[[0.9, 0.5]], [[0.6, -0.7]]])
STEP_NOISE = np.array([0.1, 0.2])
NOISE = 0.3
LOGITS = np.array([[[2.0, 0.5], [-1.0, 0.0]], [[0.5, 0.0], [-2.0, 1.0]]])  # z, z', u
Y = np.array([[[0.3], [1.2], [-0.4], [0.9]], [[-0.2], [-0.9], [0.1], [1.4]]])
INPUTS = np.array([[0.5, -1.0, 0.3], [0.0, 1.0, -0.4]])


def with_one(x):
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)


def times(matrix, x):
    return jnp.squeeze(jnp.asarray(matrix) @ x[..., None], -1)


def recurrent(y, weight=LOGITS, inputs=None, mask=None, drive=0.0):
    """A switching system of known parameters whose state hears of the vector before.

    :param weight: of the logits, ``(K, K, 2)`` by the state before.
    :param inputs: that move the logits of the second state, ``(N, T - 1)``.
    """
    count, noise = len(y), NOISE * jnp.eye(1)
    mask = jnp.ones(y.shape[:2], bool) if mask is None else mask

    def step(carry, given):
        (z, x), (y, u, seen) = carry, given
        with numpyro.plate("sequences", count):
            logits = times(jnp.asarray(weight)[z], with_one(x))
            logits = logits + u[:, None] * jnp.array([0.0, 1.0])
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            cov = jnp.asarray(STEP_NOISE)[z][..., None, None]
            mean = times(jnp.asarray(MAPS)[z], with_one(x)) + drive
            x = numpyro.sample("x", dist.MultivariateNormal(mean, cov))
            fn = dist.MultivariateNormal(x, noise).mask(seen)
            numpyro.sample("y", fn, obs=y)
        return (z, x), None

    with numpyro.plate("sequences", count):
        z = numpyro.sample("z0", dist.Categorical(jnp.asarray(FIRST)))
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)))
        fn = dist.MultivariateNormal(x, noise).mask(mask[:, 0])
        numpyro.sample("y0", fn, obs=y[:, 0])
    steps = y.shape[1] - 1
    inputs = jnp.zeros((count, steps)) if inputs is None else inputs
    given = (y[:, 1:].swapaxes(0, 1), inputs.T, mask[:, 1:].T)
    scan(step, (z, x), given)


def switching(y, logits):
    """The same with rows that know nothing of the vector before."""

    def step(carry, y):
        z, x = carry
        with numpyro.plate("sequences", y.shape[0]):
            z = numpyro.sample("z", dist.Categorical(logits=jnp.asarray(logits)[z]))
            cov = jnp.asarray(STEP_NOISE)[z][..., None, None]
            mean = times(jnp.asarray(MAPS)[z], with_one(x))
            x = numpyro.sample("x", dist.MultivariateNormal(mean, cov))
            seen = dist.MultivariateNormal(x, NOISE * jnp.eye(1))
            numpyro.sample("y", seen, obs=y)
        return (z, x), None

    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z0", dist.Categorical(jnp.asarray(FIRST)))
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)))
        seen = dist.MultivariateNormal(x, NOISE * jnp.eye(1))
        numpyro.sample("y0", seen, obs=y[:, 0])
    scan(step, (z, x), y[:, 1:].swapaxes(0, 1))


def by_position(y, sharp=40.0, noise=0.01):
    """States that the scan does not carry: which side of zero the vector was on."""

    def step(x, y):
        with numpyro.plate("sequences", y.shape[0]):
            logits = jnp.concatenate([sharp * x, -sharp * x], -1)
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            drift = jnp.array([-1.0, 1.0])[z][..., None]
            x = numpyro.sample("x", dist.MultivariateNormal(x + drift, 0.01 * _ONE))
            numpyro.sample("y", dist.MultivariateNormal(x, noise * _ONE), obs=y)
        return x, None

    with numpyro.plate("sequences", len(y)):
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(1), _ONE))
        numpyro.sample("y0", dist.MultivariateNormal(x, noise * _ONE), obs=y[:, 0])
    scan(step, x, y[:, 1:].swapaxes(0, 1))


_ONE = np.eye(1)


def pushed_with_prior(y):
    """The same with a prior of the weights of the logits."""
    prior = dist.Normal(0.0, 10.0).expand([2, 2]).to_event(2)
    pushed(y, numpyro.sample("weights", prior))


def pushed(y, weights=None):
    """A path of which either side of zero has its own steps, all of it to be learnt."""
    if weights is None:
        weights = numpyro.param("weights", jnp.zeros((2, 2)))
    own = ns.MatrixNormalInverseWishart(
        jnp.zeros((1, 2)), 0.1 * jnp.eye(2), 4.0, 0.01 * jnp.eye(1)
    )
    with numpyro.plate("states", 2):
        weight, noise = ns.sample("dynamics", own)
    loading, spread = ns.sample("sensing", own)

    def step(carry, y):
        z, x = carry
        with numpyro.plate("sequences", len(y)):
            z = numpyro.sample("z", dist.Categorical(logits=with_one(x) @ weights.T))
            mean = times(weight[z], with_one(x))
            x = numpyro.sample("x", dist.MultivariateNormal(mean, noise[z]))
            seen = times(loading, with_one(x))
            numpyro.sample("y", dist.MultivariateNormal(seen, spread), obs=y)
        return (z, x), None

    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z0", dist.Categorical(jnp.ones(2) / 2))
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(1), 4 * _ONE))
        seen = times(loading, with_one(x))
        numpyro.sample("y0", dist.MultivariateNormal(seen, spread), obs=y[:, 0])
    scan(step, (z, x), y[:, 1:].swapaxes(0, 1))


def log_rows(weight, x, u):
    """Log probabilities ``(..., K, K)`` of a step from a vector ``(..., 1)``."""
    logits = jnp.einsum("jki,...i->...jk", jnp.asarray(weight), with_one(x))
    logits = logits + jnp.asarray(u)[..., None, None] * jnp.array([0.0, 1.0])
    return logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))


def evidence_on_a_grid(y, weight, inputs, size=400):
    """``log p(y)`` of one sequence, by a sum over states and a grid of vectors."""
    grid = np.linspace(-4.0, 4.0, size)[:, None]

    def normal(v, mean, variance):
        return np.exp(-0.5 * (v - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)

    width = grid[1, 0] - grid[0, 0]
    alpha = FIRST[:, None] * (normal(grid, 0.0, 1.0) * normal(y[0], grid, NOISE)).T
    for t in range(1, len(y)):
        rows = np.exp(log_rows(weight, grid, np.full(size, inputs[t - 1])))
        into = np.einsum("jx,xjk->kx", alpha * width, rows)
        alpha = np.stack(
            [
                normal(grid, (with_one(grid) @ MAPS[k].T).T, STEP_NOISE[k]) @ into[k]
                for k in range(2)
            ]
        )
        alpha = alpha * normal(y[t], grid, NOISE).T
    return np.log(alpha.sum() * width)


def own_bound(states, path, log_rows_at):
    """The bound of ``q(z) q(x)`` given Y, with 40 points of quadrature at each step.

    :param log_rows_at: log probabilities at vectors ``(..., 1)`` and inputs.
    """
    y, points = jnp.asarray(Y), np.polynomial.hermite_e.hermegauss(40)
    probs, pairs = states.probs, states.neighbor_probs
    mean, var = path.mean[..., 0], path.covariance[..., 0, 0]
    cross = path.neighbor_covariance[..., 0, 0]
    nodes = mean[..., :-1, None] + jnp.sqrt(var[..., :-1, None]) * points[0]
    rows = log_rows_at(nodes[..., None], jnp.asarray(INPUTS)[..., None])
    rows = jnp.einsum("s,ntsjk->ntjk", points[1] / points[1].sum(), rows)
    value = jnp.sum(pairs * rows) + jnp.sum(probs[:, 0] * np.log(FIRST))
    value = value + jnp.sum(-0.5 * (mean[:, 0] ** 2 + var[:, 0] + jnp.log(2 * jnp.pi)))
    for k in range(2):
        a, b = MAPS[k, 0]
        gap = mean[:, 1:] - a * mean[:, :-1] - b
        spread = var[:, 1:] - 2 * a * cross + a**2 * var[:, :-1]
        terms = (gap**2 + spread) / STEP_NOISE[k] + jnp.log(2 * jnp.pi * STEP_NOISE[k])
        value = value - 0.5 * jnp.sum(probs[:, 1:, k] * terms)
    gap = (y[..., 0] - mean) ** 2 + var
    value = value - 0.5 * jnp.sum(gap / NOISE + jnp.log(2 * jnp.pi * NOISE))
    return value + jnp.sum(states.entropy()) + jnp.sum(path.entropy())
