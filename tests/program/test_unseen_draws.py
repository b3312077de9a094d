# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the guide cannot see may stand in sampled likelihoods, and nowhere else."""

from jax import random
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import block, condition, seed
import pytest

import numpyro_svae as ns

WEIGHT = jnp.array([[1.0, 0.5], [-0.5, 2.0], [0.3, 0.1]])
Y = jnp.arange(15.0).reshape(5, 3) / 10


def vectors():
    return numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))


def scaled_map(y):
    """A hidden size of known loadings."""
    size = numpyro.sample("size", dist.Gamma(2.0, 3.0))
    with numpyro.plate("data", len(y)):
        loc = vectors() @ (size * WEIGHT.T)
        numpyro.sample("y", dist.Normal(loc, 0.3).to_event(1), obs=y)


def scaled_prior(y):
    """A hidden hyperparameter."""
    scale = numpyro.sample("size", dist.HalfCauchy(1.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, scale))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=jnp.ones(len(y), int))


def scaled_table(y):
    """A hidden scale in what a label picks."""
    scale = numpyro.sample("size", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
        numpyro.sample("y", dist.Laplace(jnp.arange(2.0)[z], scale), obs=y[:, 0])


def scaled_likelihood(y):
    """A hidden scale behind a nonlinear function."""
    scale = numpyro.sample("size", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("data", len(y)):
        loc = jnp.tanh(vectors() @ WEIGHT.T)
        numpyro.sample("y", dist.Normal(loc, scale).to_event(1), obs=y)


def own_draw(y, fixed=False):
    """Loadings that the program draws without a sample site."""
    key = random.key(5) if fixed else numpyro.prng_key()
    weight = random.normal(key, (2, 3))
    with numpyro.plate("data", len(y)):
        fn = dist.Normal(vectors() @ weight, 0.3).to_event(1)
        numpyro.sample("y", fn, obs=y)


def recognition(y):
    return {"x": ns.GaussianPotential.from_loc_scale(y[:, :2], jnp.ones(2))}


def read(model, recognition=None):
    with seed(rng_seed=0):
        ns.AutoSVAE(model, recognition)(Y)


@pytest.mark.parametrize("model", [scaled_map, scaled_prior, scaled_table])
@pytest.mark.parametrize("seeded", [False, True])
def test_a_hidden_site_in_a_conjugate_factor_is_an_error(model, seeded):
    hidden = block(seed(model, 4) if seeded else model, hide=["size"])
    with pytest.raises(ValueError, match=r"the hidden site 'size'.*Accepted"):
        read(hidden)


def test_a_hidden_site_is_seen_behind_another_function():
    def hidden(y):
        return block(seed(scaled_map, 4), hide=["size"])(y)

    with pytest.raises(ValueError, match=r"Site 'y'.*a random draw"):
        read(hidden)


def test_a_draw_without_a_site_is_an_error_and_a_constant_is_not():
    with pytest.raises(ValueError, match=r"Site 'y'.*a random draw"):
        read(own_draw)
    read(lambda y: own_draw(y, fixed=True))


def test_hidden_sites_may_stand_in_sampled_likelihoods_or_be_given():
    read(block(seed(scaled_likelihood, 4), hide=["size"]), recognition)
    read(condition(scaled_map, {"size": jnp.array(2.0)}))
