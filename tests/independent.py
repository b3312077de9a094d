# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs whose means, weights and noises have priors of their own."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns

NOISE = np.array([[0.5, 0.2], [0.2, 0.8]])


def mean_and_precision(y):
    """Numbers with an independent Normal mean and Gamma precision."""
    mu = numpyro.sample("mu", dist.Normal(0.5, 3.0))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, tau**-0.5), obs=y)


def linear_regression(y, x, inverse=False):
    """A response with weights, an intercept and a noise of independent priors."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 2.0).to_event(1))
    b = numpyro.sample("b", dist.Normal(0.3, 5.0))
    if inverse:
        scale = jnp.sqrt(numpyro.sample("noise", dist.InverseGamma(2.0, 1.5)))
    else:
        scale = numpyro.sample("noise", dist.Gamma(2.0, 1.5)) ** -0.5
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(x @ w + b, scale), obs=y)


def known_noise(y, x, noise=NOISE):
    """Responses of two dimensions, of weights and known noise."""
    prior = dist.Normal(jnp.full((2, x.shape[1]), 0.2), 2.0).to_event(2)
    weight = numpyro.sample("weight", prior)
    with numpyro.plate("data", len(y)):
        numpyro.sample(
            "y", dist.MultivariateNormal(x @ weight.T, jnp.asarray(noise)), obs=y
        )


def means_of_groups(y, group, count=3):
    """A mean for each group, which data pick, and known noise."""
    with numpyro.plate("groups", count):
        prior = dist.MultivariateNormal(jnp.ones(2), 4.0 * jnp.eye(2))
        mu = numpyro.sample("mu", prior)
    with numpyro.plate("data", len(y)):
        numpyro.sample(
            "y", dist.MultivariateNormal(mu[group], jnp.asarray(NOISE)), obs=y
        )


def mixture(y, noise="component", count=3):
    """A mixture of Gaussians with independent means and noises.

    :param noise: ``"component"`` and ``"shared"`` precisions of each dimension,
        ``"matrix"`` an inverse-Wishart for each component, ``"known"``.
    """
    dim = y.shape[-1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(count)))
    precisions = dist.Gamma(2.0, 1.0).expand([dim]).to_event(1)
    matrix = dist.InverseWishart(dim + 2.0, scale_matrix=jnp.eye(dim))
    if noise == "shared":
        tau = numpyro.sample("tau", precisions)
    with numpyro.plate("components", count):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(dim), 4.0).to_event(1))
        if noise == "component":
            tau = numpyro.sample("tau", precisions)
        elif noise == "matrix":
            cov = numpyro.sample("cov", matrix)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        if noise == "matrix":
            fn = dist.MultivariateNormal(mu[z], cov[z])
        elif noise == "known":
            fn = dist.Normal(mu[z], 0.6).to_event(1)
        else:
            own = tau[z] if noise == "component" else tau
            fn = dist.Normal(mu[z], own**-0.5).to_event(1)
        numpyro.sample("y", fn, obs=y)


def mixture_of_factors(y, count=2):
    """Lines of different directions, with a precision of the noise for each."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(count)))
    with numpyro.plate("components", count):
        w = numpyro.sample("w", dist.Normal(jnp.zeros((2, 1)), 1.0).to_event(2))
        b = numpyro.sample("b", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        x = numpyro.sample("x", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
        loc = (w[z] @ x[..., None])[..., 0] + b[z]
        fn = dist.Normal(loc, tau[z][..., None] ** -0.5).to_event(1)
        numpyro.sample("y", fn, obs=y)


def relevant_dynamics(y, dim=2):
    """Dynamics with a precision of each column, seen through known noise."""
    columns = dist.Gamma(2.0, 1.0).expand([dim]).to_event(1)
    alpha = numpyro.sample("alpha", columns)
    prior = dist.Normal(jnp.zeros((dim, dim)), alpha**-0.5).to_event(2)
    a = numpyro.sample("a", prior)
    loc, cov = jnp.zeros(dim), jnp.eye(dim)
    chain = ns.LinearGaussianChain(loc, cov, a, cov, num_steps=len(y))
    x = numpyro.sample("x", chain)
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(2), obs=y)


def principal_components(y, dim=3, ard=True, mean=True):
    """PCA: a precision of each column decides whether it is used."""
    rows = y.shape[-1]
    scale = 1.0
    if ard:
        precisions = dist.Gamma(1e-3, 1e-3).expand([dim]).to_event(1)
        scale = numpyro.sample("alpha", precisions) ** -0.5
    w = numpyro.sample("w", dist.Normal(jnp.zeros((rows, dim)), scale).to_event(2))
    b = 0.0
    if mean:
        b = numpyro.sample("b", dist.Normal(jnp.zeros(rows), 3.0).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(jnp.zeros(dim), 1.0).to_event(1))
        loc = x @ w.T + b
        numpyro.sample("y", dist.Normal(loc, tau**-0.5).to_event(1), obs=y)
