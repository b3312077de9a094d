# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops of two states, branches, and handlers that reach into loops."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import cond, scan
import numpyro.distributions as dist
from numpyro.handlers import condition, seed, trace
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps as fitted

Y = np.random.default_rng(0).standard_normal((4, 1)).astype(np.float32)


STAY = jnp.array([0.2, 0.7])  # the probability of one, after zero and after one


def binary(y):
    def step(z, y):
        z = numpyro.sample("z", dist.Bernoulli(STAY[z]))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y[0])
        return z, None

    scan(step, numpyro.sample("first", dist.Bernoulli(0.4)), jnp.asarray(y))


def test_states_may_be_of_a_bernoulli():
    paths = np.array(list(product((0, 1), repeat=len(Y) + 1)))
    up = np.where(paths[:, :-1], *np.flip(STAY))
    prior = np.where(paths[:, 0], 0.4, 0.6)
    prior = prior * np.prod(np.where(paths[:, 1:], up, 1 - up), -1)
    joint = prior * np.exp(np.sum(dist.Normal(paths[:, 1:], 1.0).log_prob(Y[:, 0]), -1))
    guide = ns.AutoSVAE(binary)
    params, losses = fitted(make_svi(binary, guide), 1, Y)
    np.testing.assert_allclose(losses[0], -np.log(np.sum(joint)), rtol=1e-5)
    found = guide.posterior_local(params, Y)["z"].probs[..., 1]
    np.testing.assert_allclose(found, joint @ paths / np.sum(joint), rtol=1e-4)


def branches(y):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    first, second = (lambda _, m=m: numpyro.sample("x", dist.Normal(m)) for m in (0, 1))
    x = cond(z == 1, first, second, None)
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y[0, 0])


def steps(y):
    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1))
        return x, None

    first = numpyro.sample("first", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
    scan(step, first, None, length=len(y))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (branches, r"control_flow\.cond.* `if` .* jnp\.where\(z == 1, a, b\)"),
        (
            condition(steps, {"y": jnp.asarray(Y)}),
            r"'y': found a handler .*obs= in the body",
        ),
    ],
)
def test_what_is_refused_says_what_to_write(model, text):
    with pytest.raises(ValueError, match=text), trace(), seed(rng_seed=0):
        ns.AutoSVAE(model)(Y)
