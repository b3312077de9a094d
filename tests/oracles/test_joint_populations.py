# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Groups with a covariance each, in units of which their means are about one that is
learnt: a hierarchy of normal-inverse-Wisharts, as two sites for each group."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

pytestmark = pytest.mark.x64

N, D, GROUPS = 6, 2, 2
Y = np.random.default_rng(0).standard_normal((GROUPS, N, D))


def top():
    cov = 4.0 * jnp.eye(D)
    return numpyro.sample("top", dist.MultivariateNormal(jnp.zeros(D), cov))


def group(top, suffix=""):
    prior = dist.InverseWishart(5.0, scale_tril=jnp.eye(D))
    cov = numpyro.sample("cov" + suffix, prior)
    normal = dist.MultivariateNormal(top, cov / 0.5)
    return numpyro.sample("mu" + suffix, normal), cov


def plates(y):
    mean = top()
    with numpyro.plate("groups", GROUPS):
        mu, cov = group(mean)
    members = np.repeat(np.arange(GROUPS), N)
    with numpyro.plate("data", GROUPS * N):
        seen = dist.MultivariateNormal(mu[members], cov[members])
        numpyro.sample("y", seen, obs=y.reshape(-1, D))


def one_by_one(y):
    mean = top()
    for k in range(GROUPS):
        mu, cov = group(mean, str(k))
        with numpyro.plate(f"data{k}", N):
            numpyro.sample(f"y{k}", dist.MultivariateNormal(mu, cov), obs=y[k])


def bound(model, init):
    """The loss at a given posterior."""
    guide = ns.AutoSVAE(model, init=init)
    svi = make_svi(model, guide)
    return svi.evaluate(svi.init(random.PRNGKey(0), Y), Y)


def test_groups_of_a_plate_are_groups_one_by_one():
    locs = jnp.array([[0.5, -0.3], [1.0, 0.2]])
    tril = jnp.stack([0.4 * jnp.eye(D), 0.7 * jnp.eye(D)])
    dfs, scales = jnp.array([9.0, 12.0]), jnp.stack([jnp.eye(D), 1.5 * jnp.eye(D)])
    centre = {"top": dist.MultivariateNormal(0.2 * jnp.ones(D), 0.3 * jnp.eye(D))}
    together = centre | {
        "mu": dist.MultivariateNormal(locs, scale_tril=tril),
        "cov": dist.InverseWishart(dfs, scale_tril=scales),
    }
    apart = dict(centre)
    for k in range(GROUPS):
        apart[f"mu{k}"] = dist.MultivariateNormal(locs[k], scale_tril=tril[k])
        apart[f"cov{k}"] = dist.InverseWishart(dfs[k], scale_tril=scales[k])
    found, expected = bound(plates, together), bound(one_by_one, apart)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_one_joint_site_is_refused_with_what_to_write():
    def model(y):
        prior = ns.NormalInverseWishart(top(), 0.5, 5.0, jnp.eye(D))
        mu, cov = ns.sample("pair", prior)
        with numpyro.plate("data", N):
            numpyro.sample("y", dist.MultivariateNormal(mu, cov), obs=y[0])

    with pytest.raises(ValueError, match=r"'pair' .*two sites"):
        bound(model, {})
