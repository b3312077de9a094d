# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Ordinary NumPyro programs that the tests share; nothing in them is about inference.

Each model has two spellings of its priors: ``joint`` (one site from ``ns.sample``) and
two sites of NumPyro's own distributions.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns

KAPPA = 0.5


def vector_prior(name, dim, count=None, joint=True):
    """Mean and covariance of a Gaussian; of ``count`` Gaussians in a plate."""
    if count is not None:
        with numpyro.plate(f"{name}_plate", count):
            return vector_prior(name, dim, joint=joint)
    zeros, eye = jnp.zeros(dim), jnp.eye(dim)
    if joint:
        return ns.sample(name, ns.NormalInverseWishart(zeros, KAPPA, dim + 2.0, eye))
    cov = numpyro.sample(
        f"{name}_cov", dist.InverseWishart(dim + 2.0, scale_matrix=eye)
    )
    loc = numpyro.sample(name, dist.MultivariateNormal(zeros, cov / KAPPA))
    return loc, cov


def matrix_prior(name, loc, joint=True, df=None, scale=1.0):
    """Weight and noise covariance of a linear regression."""
    dim, columns = loc.shape
    df = dim + 2.0 if df is None else df
    precision, scale = KAPPA * jnp.eye(columns), scale * jnp.eye(dim)
    if joint:
        prior = ns.MatrixNormalInverseWishart(loc, precision, df, scale)
        return ns.sample(name, prior)
    cov = numpyro.sample(f"{name}_cov", dist.InverseWishart(df, scale_matrix=scale))
    tril = jnp.linalg.cholesky(cov)
    column_tril = jnp.eye(columns) / jnp.sqrt(KAPPA)
    return numpyro.sample(name, dist.MatrixNormal(loc, tril, column_tril)), cov


def mixture(y=None, labels=None, *, joint=True, count=3, size=8, subsample=None):
    """Model 1: a Bayesian mixture of Gaussians. ``labels`` observe the site z."""
    size = size if y is None else len(y)
    dim = 2 if y is None else y.shape[-1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(count, 0.7)))
    loc, cov = vector_prior("components", dim, count, joint)
    with numpyro.plate("data", size, subsample_size=subsample) as index:
        batch = None if y is None else y[index]
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
        numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=batch)


def labelled_mixture(y, labels, *, joint=True, count=3):
    """Model 1 where the labels are data that pick components."""
    loc, cov = vector_prior("components", y.shape[-1], count, joint)
    with numpyro.plate("data", len(y)):
        gaussian = dist.MultivariateNormal(loc[labels], cov[labels])
        numpyro.sample("y", gaussian, obs=y)


def known_mixture(y=None, *, size=8, noise=0.5):
    """A mixture of Gaussians of known parameters, seen with noise."""
    size = size if y is None else len(y)
    weights = jnp.array([0.5, 0.3, 0.2])
    loc = jnp.array([[0.0, 0.0], [1.5, 0.5], [-1.0, 2.0]])
    scales = jnp.array([0.5, 1.0, 0.7])
    with numpyro.plate("data", size):
        z = numpyro.sample("z", dist.Categorical(weights))
        cov = scales[z][..., None, None] * jnp.eye(2)
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov))
        numpyro.sample("y", dist.MultivariateNormal(x, noise * jnp.eye(2)), obs=y)


def decoder(x, outputs=3):
    """A small smooth function with parameters, as a neural network would be."""
    first = numpyro.param("first", lambda key: _grid(x.shape[-1], 4))
    second = numpyro.param("second", lambda key: _grid(4, outputs))
    return jnp.tanh(x @ first) @ second


def encoder(y, dim=2, name="encoder"):
    """Location and scale of a potential, by a small function with parameters."""
    first = numpyro.param(f"{name}_first", lambda key: _grid(y.shape[-1], dim))
    scale = numpyro.param(f"{name}_scale", lambda key: 0.5 * jnp.ones(dim))
    loc = jnp.tanh(y) @ first
    return ns.GaussianPotential.from_loc_scale(loc, scale)


def _grid(rows, columns):
    entries = jnp.arange(rows * columns, dtype=float)
    return jnp.sin(1.0 + 2.0 * entries).reshape(rows, columns)


def mixture_svae(y=None, *, joint=True, count=3, size=8, subsample=None):
    """Model 2: a mixture behind a nonlinear decoder."""
    size = size if y is None else len(y)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(count, 0.7)))
    loc, cov = vector_prior("components", 2, count, joint)
    with numpyro.plate("data", size, subsample_size=subsample) as index:
        batch = None if y is None else y[index]
        z = numpyro.sample("z", dist.Categorical(weights))
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov[z]))
        numpyro.sample("y", dist.Normal(decoder(x), 0.3).to_event(1), obs=batch)


def mixture_recognition(y=None, *, size=8, subsample=None, **kwargs):
    """Recognition of model 2."""
    with numpyro.plate("data", len(y), subsample_size=subsample) as index:
        return {"x": encoder(y[index])}


def _lds_priors(dim, width, joint, know=None):
    start = vector_prior("init", dim, joint=joint)
    loc = 0.9 * jnp.eye(dim, dim + width)
    return start, matrix_prior("dynamics", loc, joint)


def observed_lds(x, actions=None, *, joint=True):
    """Model 3: a linear dynamical system with actions whose states are seen."""
    width = 0 if actions is None else actions.shape[-1]
    start, step = _lds_priors(x.shape[-1], width, joint)
    with numpyro.plate("sequences", len(x)):
        chain = ns.LinearGaussianChain(
            *start, *step, inputs=actions, num_steps=x.shape[-2]
        )
        numpyro.sample("x", chain, obs=x)


def linear_lds(
    y=None, actions=None, *, joint=True, shape=(4, 5), outputs=3, subsample=None
):
    """Model 4: a linear dynamical system with a linear-Gaussian observation."""
    shape = shape if y is None else y.shape[:2]
    width = 0 if actions is None else actions.shape[-1]
    start, step = _lds_priors(2, width, joint)
    outputs = outputs if y is None else y.shape[-1]
    emission, noise = matrix_prior("emission", jnp.zeros((outputs, 3)), joint)
    with numpyro.plate("sequences", shape[0], subsample_size=subsample) as index:
        x = numpyro.sample("x", chain_of(start, step, actions, index, shape[1]))
        loc = x @ emission[:, :2].T + emission[:, 2]
        batch = None if y is None else y[index]
        gaussian = dist.MultivariateNormal(loc, noise).to_event(1)
        numpyro.sample("y", gaussian, obs=batch)


def chain_of(start, step, actions, index, steps):
    """The chain of a batch of sequences."""
    inputs = None if actions is None else actions[index]
    return ns.LinearGaussianChain(*start, *step, inputs=inputs, num_steps=steps)


def known_lds(y=None, actions=None, *, shape=(4, 5), learn=False):
    """Model 4 with parameters that are fixed, or points to estimate."""
    shape = shape if y is None else y.shape[:2]
    width = 0 if actions is None else actions.shape[-1]
    transition = jnp.array([[0.9, -0.2, 0.5], [0.3, 0.8, -0.4]])[:, : 2 + width]
    emission = jnp.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.2]])
    noise = 0.4 * jnp.eye(3)
    if learn:
        transition = numpyro.param("transition", transition)
        noise = numpyro.param("noise", jnp.asarray(0.4)) * jnp.eye(3)
    start = jnp.array([0.5, -0.5]), 1.5 * jnp.eye(2)
    step = transition, jnp.array([[0.3, 0.1], [0.1, 0.2]])
    with numpyro.plate("sequences", shape[0]) as index:
        x = numpyro.sample("x", chain_of(start, step, actions, index, shape[1]))
        loc = x @ emission.T + 0.1
        gaussian = dist.MultivariateNormal(loc, noise).to_event(1)
        numpyro.sample("y", gaussian, obs=y)


def lds_svae(
    y=None,
    actions=None,
    *,
    joint=True,
    shape=(4, 5),
    subsample=None,
    likelihood="normal",
    globals="bayes",
    mask=None,
    network=decoder,
):
    """Model 5: a linear dynamical system with actions behind a nonlinear decoder."""
    shape = shape if y is None else y.shape[:2]
    width = 0 if actions is None else actions.shape[-1]
    start, step = lds_globals(globals, width, joint)
    with numpyro.plate("sequences", shape[0], subsample_size=subsample) as index:
        x = numpyro.sample("x", chain_of(start, step, actions, index, shape[1]))
        fn = likelihood_of(likelihood, network(x))
        if mask is not None:
            fn = fn.mask(mask[..., None])
        batch = None if y is None else y[index]
        numpyro.sample("y", fn.to_event(2), obs=batch)


def lds_globals(kind, width, joint=True):
    """Priors, points to estimate, or fixed values."""
    if kind == "bayes":
        return _lds_priors(2, width, joint)
    transition = 0.9 * jnp.eye(2, 2 + width)
    scale = jnp.asarray(0.3)
    if kind == "point":
        transition = numpyro.param("transition", transition)
        scale = numpyro.param("scale", scale, constraint=dist.constraints.positive)
    return (jnp.zeros(2), jnp.eye(2)), (transition, scale * jnp.eye(2))


def likelihood_of(kind, output):
    """Three distributions of an observed number, from the output of a decoder."""
    if kind == "normal":
        return dist.Normal(output, 0.3)
    if kind == "bernoulli":
        return dist.Bernoulli(logits=output)
    return dist.Poisson(jnp.exp(output))


def lds_recognition(y=None, actions=None, *, subsample=None, mask=None, **kwargs):
    """Recognition of model 5 by a plain function."""
    with numpyro.plate("sequences", len(y), subsample_size=subsample) as index:
        potential = encoder(1.0 * y[index])
    return {"x": potential if mask is None else potential.mask(mask)}
