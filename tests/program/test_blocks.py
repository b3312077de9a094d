# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which global block each spelling of a prior is, and what is wrong with it."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.inference.start.given import natural_of
from numpyro_svae.program.read.latents import easy_value, read_priors
from numpyro_svae.program.run.sites import Program, sample_sites

EYE = jnp.eye(2)


def pair():
    cov = numpyro.sample("S", dist.InverseWishart(5.0, EYE))
    return numpyro.sample("m", dist.MultivariateNormal(jnp.zeros(2), cov / 0.5)), cov


def apart():
    cov = numpyro.sample("S", dist.InverseWishart(5.0, EYE))
    return numpyro.sample("m", dist.MultivariateNormal(jnp.zeros(2), EYE)), cov


def packed():
    return ns.sample("m", ns.NormalInverseWishart(jnp.zeros(2), 0.5, 5.0, EYE))


def by_entry():
    tau = numpyro.sample("t", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    mean = numpyro.sample("m", dist.Normal(0.0, 1 / jnp.sqrt(tau)).to_event(1))
    return mean, jnp.diag(1 / tau)


def one_scale():
    tau = numpyro.sample("t", dist.InverseGamma(2.0, 1.0))
    mean = numpyro.sample("m", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    return mean, tau * EYE


def weighted(*shape, transposed=False):
    """Weights whose rows have dependent posteriors, as the noise is dependent."""

    def prior():
        loc = jnp.arange(6.0).reshape(shape)
        W = numpyro.sample("m", dist.Normal(loc, 1.0).to_event(2))
        x = jnp.array([1.0, 2.0, 3.0])
        return (x @ W if transposed else W @ x), EYE + 0.5

    return prior


def observed(prior):
    def model():
        mean, cov = prior()
        with numpyro.plate("data", 3):
            fn = dist.MultivariateNormal(mean, cov)
            numpyro.sample("y", fn, obs=jnp.ones((3, 2)))

    return model


@pytest.mark.parametrize(
    ("prior", "found"),
    [
        (packed, {"m": "RegressionPrior"}),
        (pair, {"m": "RegressionPrior"}),
        (apart, {"S": "CovariancePrior", "m": "GaussianPrior"}),
        (by_entry, {"m": "DiagonalPrior"}),
        (one_scale, {"t": "PrecisionPrior", "m": "GaussianPrior"}),
        (weighted(2, 3), {"m": "GaussianPrior"}),
        (weighted(3, 2, transposed=True), {"m": "GaussianPrior"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_blocks_of_a_mean_and_a_covariance(prior, found):
    program = Program(observed(prior), (), {}, random.PRNGKey(0))
    with handlers.block():
        sites = sample_sites(program.trace({}, easy_value))
        blocks = read_priors(program, sites)
        assert {n: type(b).__name__ for n, b in blocks.items()} == found
        rng = np.random.default_rng(0)
        for block in blocks.values():
            held = {n: sites[n] for n in block.sites}
            for values in (block.plain_values(), block.random_values(rng)):
                shapes = {n: np.shape(v) for n, v in values.items()}
                assert shapes == {n: s.value.shape for n, s in held.items()}
            run = program.sites(block.plain_values())
            natural = block.natural(run)
            assert block.fault(natural) is None
            posterior = block.posterior(natural)
            drawn = posterior.sample(random.PRNGKey(1))
            assert block.unpack(drawn).keys() == held.keys()
            again = natural_of(block, posterior)  # of a fit, as the start of another
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), again, natural)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (lambda: dist.InverseWishart(0.5, EYE), "'S': found 0.5 degrees of freedom"),
        (lambda: dist.InverseWishart(5.0, -EYE), "'S': its scale matrix is not pos"),
    ],
)
def test_faults_name_the_site(prior, message):
    def model():
        with numpyro.validation_enabled(False):
            cov = numpyro.sample("S", prior())
        with numpyro.plate("data", 3):
            fn = dist.MultivariateNormal(jnp.zeros(2), cov)
            numpyro.sample("y", fn, obs=jnp.ones((3, 2)))

    guide = ns.AutoSVAE(model)
    with pytest.raises(ValueError, match=message), handlers.seed(rng_seed=0):
        guide()
