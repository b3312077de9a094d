# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops of two states, branches, and handlers that reach into loops."""

from itertools import product

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import cond, scan
import numpyro.distributions as dist
from numpyro.handlers import condition, seed, substitute, trace
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps as fitted

# NumPyro's replay takes the shape of everything in the trace of a guide.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")

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


def level(y, given, gap=0):
    """A level and what is seen of it, which a handler says or ``obs=``.

    :param gap: how many values are missing at the end.
    """

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=None if given else y)
        return x, None

    scale = numpyro.sample("scale", dist.Gamma(2.0, 1.0))
    first = numpyro.sample("first", dist.Normal(0.0, scale**-0.5))
    data = {"y": y[: len(y) - gap]} if given else {}
    with condition(data=data):
        scan(step, first, y)


def autoregression(y, given):
    """Data of which each depends on the two before, as in an example of NumPyro."""
    weights = numpyro.sample("weights", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(carry, y):
        before, earlier = carry
        loc = weights[0] * before + weights[1] * earlier
        now = numpyro.sample("y", dist.Normal(loc, scale), obs=None if given else y)
        return (now, before), loc

    with condition(data={"y": y[2:]} if given else {}):
        scan(step, (y[1], y[0]), y[2:])


@pytest.mark.parametrize("model", [level, autoregression])
def test_what_a_handler_gives_a_scan_is_data(model, x64):
    y, found = jnp.asarray(np.random.default_rng(1).normal(size=6)), []
    for given in (True, False):
        guide = ns.AutoSVAE(model)
        params, losses = fitted(make_svi(model, guide, natural=0.5), 2, y, given)
        found.append((losses, params, guide.posterior_local(params, y, given)))
        if model is level:
            state = model, guide, params, random.PRNGKey(1), y, given
            found[-1] += (ns.forecast(*state, horizon=2, num_samples=3),)
    (losses, *others), (expected, *known) = found
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    leaves = (jax.tree.leaves(tree) for tree in (others, known))
    for value, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-7, atol=1e-9)


def test_what_a_handler_gives_to_some_steps_is_named():
    """NumPyro would draw the others, and take what it draws for data."""
    message = r"'y': found values of shape \(3,\) .* 4 steps.*\(4,\).*obs= .*forecast"
    with pytest.raises(ValueError, match=message):
        ns.AutoSVAE(level).posterior_local({}, jnp.asarray(Y[:, 0]), True, 1)


def test_a_handler_that_gives_latent_sites_values_is_named():
    model = substitute(level, {"x": jnp.zeros(4)})
    message = r"'x': found a handler .*substitute.*handlers\.condition, .*obs="
    with pytest.raises(ValueError, match=message):
        ns.AutoSVAE(model).posterior_local({}, jnp.asarray(Y[:, 0]), True)


def test_branches_are_refused_with_what_to_write():
    text = r"control_flow\.cond.* `if` .* jnp\.where\(z == 1, a, b\)"
    with pytest.raises(ValueError, match=text), trace(), seed(rng_seed=0):
        ns.AutoSVAE(branches)(Y)
