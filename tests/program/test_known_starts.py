# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scans whose first state is known mean what they mean with a site that is certain."""

from itertools import product

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

N, T, K, D = 3, 6, 3, 2
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, T, D))
START = np.array([0, 2, 1])
ROWS = jnp.asarray(RNG.dirichlet(np.ones(K), K))
LEVEL = jnp.array([-1.0, 0.5, 2.0])


def states(known, y, start):
    """Sequences with states, of which the first is known and has no data."""
    with numpyro.plate("states", K):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(K)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([D]).to_event(1))
    if not known:
        with numpyro.plate("sequences", N):
            start = numpyro.sample("first", dist.Categorical(jnp.eye(K)[start]))

    def step(z, y):
        with numpyro.plate("sequences", N):
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            numpyro.sample("y", dist.Normal(mu[z], 0.5).to_event(1), obs=y)
        return z, None

    scan(step, start, jnp.swapaxes(y, 0, 1))


def path(known, y, start):
    """A path that starts at a known place, one for each sequence."""
    prior = ns.MatrixNormalInverseWishart(jnp.eye(D), jnp.eye(D), 4.0, jnp.eye(D))
    F, Q = ns.sample("dynamics", prior)
    start = 1.0 * start[:, None] - jnp.array([1.0, 0.0])
    if not known:
        zero = jnp.zeros(D)
        with numpyro.plate("sequences", N):
            fn = dist.Normal(start, zero, validate_args=False).to_event(1)
            start = numpyro.sample("first", fn)

    def step(x, y):
        with numpyro.plate("sequences", N):
            x = numpyro.sample("x", dist.MultivariateNormal(x @ F.T, Q))
            numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)
        return x, None

    scan(step, start, jnp.swapaxes(y, 0, 1))


@pytest.mark.x64
@pytest.mark.filterwarnings("ignore:shape requires ndarray")
@pytest.mark.parametrize("spelled", [states, path])
def test_a_known_start_is_a_site_that_is_certain(spelled, x64):
    found = []
    for known in (True, False):

        def model(y, start, known=known):
            spelled(known, y, start)

        guide = ns.AutoSVAE(model, num_starts=1)
        y = jnp.asarray(Y)
        params, losses = steps(make_svi(model, guide, natural=0.5), 3, y, START)
        local = guide.posterior_local(params, y, START)
        shown = {n: q.probs if n == "z" else q.mean for n, q in local.items()}
        if spelled is states:
            given = model, guide, params, random.key(1), y, START
            after = ns.forecast(*given, horizon=2, num_samples=5)
        else:
            state = ns.filter(model, guide, params, y[:, :4], START)
            after = state.update(y=y[:, 4]).bound
        with seed(rng_seed=0):
            drawn = {n: x.shape for n, x in guide(y, START).items()}
        assert known != ("first" in drawn)
        drawn.pop("first", None)
        found.append((losses, params, shown, after, drawn))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), *found)


def test_the_bound_of_known_parameters_is_the_evidence():
    y = jnp.asarray(Y[0, :5, 0])

    def model(y):
        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(ROWS[z]))
            numpyro.sample("y", dist.Normal(LEVEL[z], 0.7), obs=y)
            return z, None

        scan(step, 1, y)

    guide = ns.AutoSVAE(model)
    _, losses = steps(make_svi(model, guide), 1, y)
    total = 0.0
    for each in product(range(K), repeat=5):
        before = (1, *each[:-1])
        gaussian = dist.Normal(LEVEL[jnp.array(each)], 0.7).log_prob(y)
        total += np.prod(np.asarray(ROWS)[before, each]) * np.exp(gaussian.sum())
    np.testing.assert_allclose(losses[-1], -np.log(total), rtol=1e-5)


def test_a_start_that_is_no_state_is_refused_by_name():
    def model(y):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones((K + 1, K))).to_event(1))

        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            numpyro.sample("y", dist.Normal(LEVEL[z], 0.7), obs=y)
            return z, None

        scan(step, K, y)

    match = "(?s)'z': the scan starts at states from 3 to 3, found 3.*a site before"
    with pytest.raises(ValueError, match=match), seed(rng_seed=0):
        ns.AutoSVAE(model)(jnp.asarray(Y[0, :, 0]))
