# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Any likelihood in the body of a scan is that of the chain as one site.

What is seen of the first state is a site before the scan, and counts once.
"""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns

N, T, P = 3, 4, 2
_RNG = np.random.default_rng(0)
COUNTS = jnp.asarray(_RNG.poisson(3.0, (N, T, P)))
NUMBERS = jnp.asarray(_RNG.standard_normal((N, T, P)))
SHOWN = jnp.asarray(_RNG.random((N, T, P)) < 0.7)
WEIGHT = 0.3 * jnp.asarray(_RNG.standard_normal((2, P)))


def _mixture(eta):
    weights = dist.Categorical(jnp.array([0.3, 0.7]))
    rates = jnp.exp(jnp.stack([eta, eta + 1], -1))
    return dist.MixtureSameFamily(weights, dist.Poisson(rates))


def _moved(eta):
    moved = dist.transforms.AffineTransform(1.0, 2.0)
    return dist.TransformedDistribution(dist.Laplace(eta, 1.0), moved)


LIKELIHOODS = {
    "two parameters": (lambda eta: dist.NegativeBinomial2(jnp.exp(eta), 3.0), COUNTS),
    "zeros": (lambda eta: dist.ZeroInflatedPoisson(0.2, jnp.exp(eta)), COUNTS),
    "tails": (lambda eta: dist.StudentT(3.0, eta, 1.0), NUMBERS),
    "mixture": (_mixture, COUNTS),
    "moved": (_moved, NUMBERS),
}


def one_site(y, likelihood, shown):
    with numpyro.plate("sequences", N):
        chain = ns.LinearGaussianChain(
            jnp.zeros(2), jnp.eye(2), 0.9 * jnp.eye(2), jnp.eye(2), num_steps=T
        )
        x = numpyro.sample("x", chain)
        seen = likelihood(x @ WEIGHT).mask(shown).to_event(2)
        numpyro.sample("y", seen, obs=y)


def scanned(y, likelihood, shown):
    y, shown = (jnp.swapaxes(a, 0, 1) for a in (y, shown))
    sequences = numpyro.plate("sequences", N)

    def see(name, x, y, shown):
        seen = likelihood(x @ WEIGHT).mask(shown).to_event(1)
        numpyro.sample(name, seen, obs=y)

    def step(x, given):
        with sequences:
            x = numpyro.sample("x", dist.Normal(0.9 * x, 1.0).to_event(1))
            see("y", x, *given)
        return x, None

    with sequences:
        x = numpyro.sample("first", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        see("y_first", x, y[0], shown[0])
    scan(step, x, (y[1:], shown[1:]))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_in_a_scan_is_that_of_the_chain_as_one_site(name):
    likelihood, y = LIKELIHOODS[name]
    found = []
    for spelled in (one_site, scanned):
        model = partial(spelled, likelihood=likelihood, shown=SHOWN | (name == "tails"))
        guide = ns.AutoSVAE(model, num_starts=1)
        loss = ns.SVAE_ELBO().loss(random.key(0), {}, model, guide, y)
        found.append((loss, guide.posterior_local({}, y)["x"].mean))
        if name == "two parameters":
            fit = model, guide, {}, random.key(1), y
            found[-1] += (ns.log_likelihood(*fit, num_particles=20).value,)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *found)
