# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs with one conjugate block for each kind of observation."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns


def beta(batch=(), features=()):
    prior = dist.Beta(2.0, 3.0).expand(batch + features).to_event(len(features))
    return numpyro.sample("p", prior)


def gamma(batch=(), features=()):
    prior = dist.Gamma(2.0, 1.5).expand(batch + features).to_event(len(features))
    return numpyro.sample("rate", prior)


def normal_gamma(dim, relative=0.5):
    """Location and precision of each dimension."""
    precision = numpyro.sample("tau", dist.Gamma(2.0, 1.5).expand([dim]).to_event(1))
    spread = 1 / jnp.sqrt(relative * precision)
    return numpyro.sample("mu", dist.Normal(0.3, spread).to_event(1)), precision


def gaussian(y):
    """Gaussian vectors with a mean and a precision of each dimension."""
    mu, tau = normal_gamma(y.shape[-1])
    with numpyro.plate("data", len(y)):
        fn = dist.Normal(mu, 1 / jnp.sqrt(tau)).to_event(1)
        numpyro.sample("y", fn, obs=y)


KINDS = {
    "bernoulli": (beta, lambda p: dist.Bernoulli(p)),
    "bernoulli-logits": (beta, lambda p: dist.Bernoulli(logits=jnp.log(p / (1 - p)))),
    "binomial": (beta, lambda p: dist.Binomial(5, p)),
    "geometric": (beta, lambda p: dist.Geometric(p)),
    "poisson": (gamma, lambda rate: dist.Poisson(rate)),
    "exponential": (gamma, lambda rate: dist.Exponential(rate)),
    "negative-binomial": (beta, lambda p: dist.NegativeBinomial(4.0, probs=p)),
    "negative-binomial-logits": (
        beta,
        lambda p: dist.NegativeBinomial(4.0, logits=jnp.log(p / (1 - p))),
    ),
    "gamma": (gamma, lambda rate: dist.Gamma(2.5, rate)),
    "inverse-gamma": (gamma, lambda rate: dist.InverseGamma(2.5, rate)),
}


def single(kind, y, mask=None, features=()):
    """Independent data with one parameter, or one of each feature."""
    prior, observation = KINDS[kind]
    parameter = prior(features=features)
    with numpyro.plate("data", len(y)):
        fn = observation(parameter)
        fn = fn if mask is None else fn.mask(mask)
        numpyro.sample("y", fn.to_event(len(features)), obs=y)


def mixture_of(kind, y, count=2):
    """A mixture of one kind of observation."""
    prior, observation = KINDS[kind]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(count)))
    with numpyro.plate("components", count):
        parameter = prior(features=y.shape[1:])
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", observation(parameter[z]).to_event(y.ndim - 1), obs=y)


def multinomial_mixture(y, count=2):
    """A mixture of topics of documents with nine words."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(count)))
    with numpyro.plate("components", count):
        words = numpyro.sample("words", dist.Dirichlet(0.7 * jnp.ones(y.shape[1])))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Multinomial(9, words[z]), obs=y)


def poisson_hmm(y, count=2):
    """A hidden Markov model of counts."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(count)))
    with numpyro.plate("components", count):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(count)))
        rate = gamma()
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, y.shape[1]))
        numpyro.sample("y", dist.Poisson(rate[z]).to_event(1), obs=y)


def diagonal_mixture(y, count=2, latent=False):
    """A mixture of Gaussians with a variance of its own for each dimension."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(count)))
    with numpyro.plate("components", count):
        mu, tau = normal_gamma(y.shape[-1])
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        fn = dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])).to_event(1)
        if latent:
            x = numpyro.sample("x", fn)
            fn = dist.Normal(x, 0.3).to_event(1)
        numpyro.sample("y", fn, obs=y)


def factor_analysis(y, dim=1):
    """Loadings and a noise variance of each dimension."""
    rows = y.shape[-1]
    noise = dist.InverseGamma(2.0, 1.0).expand([rows]).to_event(1)
    variance = numpyro.sample("variance", noise)
    spread = 2.0 * jnp.sqrt(variance)[:, None]
    fn = dist.Normal(jnp.zeros((rows, dim + 1)), spread).to_event(2)
    weight = numpyro.sample("weight", fn)
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([dim]).to_event(1))
        u = jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1))], -1)
        seen = dist.Normal(u @ weight.T, jnp.sqrt(variance)).to_event(1)
        numpyro.sample("y", seen, obs=y)
