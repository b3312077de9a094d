# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Noises of the entries of one response that are sites of their own."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

RNG = np.random.default_rng(3)
Y = RNG.standard_normal((8, 4)) * np.array([0.5, 1.0, 2.0, 3.0])
GROUP = np.arange(8) % 2
WEIGHT = np.linspace(0.5, 2.0, 8)


def variance(name, shape=3.0, scale=2.0):
    return numpyro.sample(name, dist.InverseGamma(shape, scale))


def in_several(y):
    """One noise of two entries, and two precisions the other way round."""
    outer = variance("outer")
    inner = numpyro.sample("inner", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    variances = jnp.concatenate([outer[None], 1 / inner[::-1], outer[None]])
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(0.0, jnp.sqrt(variances)).to_event(1), obs=y)


def picked(y):
    """A noise of each entry for each group."""
    with numpyro.plate("groups", 2):
        first, second = variance("first"), variance("second", 4.0)
    with numpyro.plate("data", len(y)):
        own = jnp.stack([second[GROUP], first[GROUP]], -1)
        fn = dist.Normal(0.0, jnp.sqrt(own)).to_event(1)
        numpyro.sample("y", fn, obs=y[:, :2])


def shared(y):
    """A noise that all groups share, beside one for each, all in known proportions."""
    first = variance("first")
    with numpyro.plate("groups", 2):
        second = variance("second", 4.0)
    with numpyro.plate("data", len(y)):
        own = jnp.stack([jnp.broadcast_to(first, 8), second[GROUP]], -1)
        fn = dist.Normal(0.0, jnp.sqrt(own * WEIGHT[:, None])).to_event(1)
        numpyro.sample("y", fn, obs=y[:, :2])


def path(y):
    """A level and a trend that move."""
    step = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    noise = jnp.diag(jnp.stack([variance("level"), variance("trend")]))
    chain = ns.LinearGaussianChain(jnp.zeros(2), jnp.eye(2), step, noise, num_steps=8)
    numpyro.sample("y", chain, obs=y)


def states():
    """A path of the program above, and its noises."""
    noise, x = RNG.standard_normal((2, 8)), np.zeros((8, 2))
    for t in range(1, 8):
        level, trend = x[t - 1]
        x[t] = level + trend + noise[0, t], trend + noise[1, t]
    return x, np.square(noise[:, 1:]).sum(1)


def inverse_gamma(site):
    return np.stack([site.concentration, site.rate])


def expected(count, squares, shape=3.0, scale=2.0):
    return [shape + 0.5 * count + 0.0 * squares, scale + 0.5 * squares]


PATH, SQUARES = states()
SQUARE = np.square(Y).sum(0)
GROUPED = np.stack([np.square(Y[k::2]).sum(0) for k in range(2)])
WEIGHTED = np.square(Y) / WEIGHT[:, None]
BY_GROUP = np.stack([WEIGHTED[k::2, 1].sum() for k in range(2)])
CASES = {
    "several": (
        in_several,
        Y,
        {
            "outer": expected(16, SQUARE[0] + SQUARE[3]),
            "inner": expected(8, SQUARE[[2, 1]], 2.0, 1.0),
        },
    ),
    "picked": (
        picked,
        Y,
        {
            "first": expected(4, GROUPED[:, 1]),
            "second": expected(4, GROUPED[:, 0], 4.0),
        },
    ),
    "shared": (
        shared,
        Y,
        {
            "first": expected(8, WEIGHTED[:, 0].sum()),
            "second": expected(4, BY_GROUP, 4.0),
        },
    ),
    "path": (
        path,
        PATH,
        {"level": expected(7, SQUARES[0]), "trend": expected(7, SQUARES[1])},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_posteriors_have_their_closed_form(x64, name):
    model, y, sites = CASES[name]
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide), 1, y)
    found = guide.get_posterior(params)
    for site, known in sites.items():
        fn = found[site]
        fn = getattr(fn, "base_dist", fn)
        np.testing.assert_allclose(inverse_gamma(fn), known, rtol=1e-8)


def noises(names):
    """As sites of their own, or as one."""
    if len(names) > 1:
        return jnp.stack([variance(name) for name in names])
    fn = dist.InverseGamma(3.0, 2.0).expand([2]).to_event(1)
    return numpyro.sample(names, fn)


def regression(y, names):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    scale = jnp.sqrt(noises(names))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(loc, scale).to_event(1), obs=y[:, 2:])


def lagged(y, names):
    """A level and a trend that are not seen, and what the level was, without noise."""
    step = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    noise = jnp.diag(jnp.append(noises(names), 0.0))
    chain = ns.LinearGaussianChain(jnp.zeros(3), jnp.eye(3), step, noise, num_steps=8)
    x = numpyro.sample("x", chain)
    numpyro.sample("y", dist.Normal(x[:, 0] - x[:, 2], 0.5).to_event(1), obs=y[:, 0])


@pytest.mark.parametrize(
    "model", [regression, pytest.param(lagged, marks=pytest.mark.slow)]
)
def test_beside_others_the_bound_is_that_of_one_site(x64, model):
    losses = []
    for names in ("ab", "c"):
        own = partial(model, names=names)
        losses.append(steps(make_svi(own, ns.AutoSVAE(own)), 40, Y)[1][-1])
    np.testing.assert_allclose(*losses, rtol=1e-7)
