# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations in a plate over the steps of a chain: the same as with ``to_event``."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi
from tests.reading import read

pytestmark = pytest.mark.x64

N, T, D = 3, 6, 2
RNG = np.random.default_rng(0)
Y, SEEN = RNG.standard_normal((N, T)), RNG.random((N, T)) < 0.7
VECTORS, COUNTS = RNG.standard_normal((N, T, D)), RNG.poisson(2.0, (N, T))
LOADING = np.array([1.0, 0.5])
RATES = jnp.array([0.5, 4.0])


def chain(steps=T):
    eye = jnp.eye(D)
    return ns.LinearGaussianChain(jnp.zeros(D), eye, 0.9 * eye, eye, num_steps=steps)


def path(steps=T):
    return numpyro.sample("x", chain(steps))


def states():
    rows = jnp.array([[0.8, 0.2], [0.3, 0.7]])
    return numpyro.sample("z", ns.DiscreteMarkovChain(rows[0], rows, T))


def observe(spelling, state, seen, y):
    """Data of sequences, with time in their event, or in a plate inside or outside;
    or with plates of their own, those of the rows and columns of their array.

    :param state: samples the latent chains.
    :param seen: maps the chains, and how to move axes to where the plates are, to a
        distribution.
    """
    if spelling == "shifted":
        with numpyro.plate("data", N):
            chains = state()
        with numpyro.plate("rows", N, dim=-2), numpyro.plate("time", T, dim=-1):
            numpyro.sample("y", seen(chains, lambda x: x), obs=y)
        return
    with numpyro.plate("data", N, dim=-2 if spelling == "inside" else -1):
        chains = state()
        if spelling == "event":
            numpyro.sample("y", seen(chains, lambda x: x).to_event(1), obs=y)
            return
        if spelling == "inside":
            dim, chains, move = -1, chains[:, 0], lambda x: x
        else:
            dim, move = -2, lambda x: jnp.moveaxis(jnp.asarray(x), 0, 1)
        with numpyro.plate("time", T, dim=dim):
            numpyro.sample("y", seen(chains, move), obs=move(y))


def numbers(spelling):
    def seen(x, move):
        return dist.Normal(move(x @ LOADING), 0.4).mask(move(SEEN))

    observe(spelling, path, seen, Y)


def learnt(spelling):
    c = numpyro.sample("c", dist.Normal(0.0, 1.0).expand([D, D]).to_event(2))
    noise = numpyro.sample("noise", dist.Gamma(2.0, 1.0).expand([D]).to_event(1))

    def seen(x, move):
        return dist.Normal(move(x @ c.T), noise**-0.5).to_event(1)

    observe(spelling, path, seen, VECTORS)


def counts(spelling):
    observe(spelling, states, lambda z, move: dist.Poisson(move(RATES[z])), COUNTS)


def alone(spelling):
    """One path, which has no other plate."""
    x = path()
    if spelling == "event":
        numpyro.sample("y", dist.Normal(x @ LOADING, 0.4).to_event(1), obs=Y[0])
        return
    with numpyro.plate("time", T):
        numpyro.sample("y", dist.Normal(x @ LOADING, 0.4), obs=Y[0])


@pytest.mark.parametrize(
    ("model", "spelling"),
    [
        (numbers, "inside"),
        (learnt, "outside"),
        (counts, "inside"),
        (alone, "plate"),
        (numbers, "shifted"),
    ],
)
def test_a_plate_over_time_is_read_as_an_event_dimension(model, spelling):
    (factors, data), (expected, others) = (
        read(partial(model, own)) for own in (spelling, "event")
    )
    assert factors == expected
    leaves = [[np.ravel(x) for x in jax.tree.leaves(tree)] for tree in (data, others)]
    assert len(leaves[0]) == len(leaves[1])
    for pair in zip(*leaves):
        np.testing.assert_allclose(*pair, rtol=1e-12)


@pytest.mark.slow  # the filter is compiled
def test_the_filter_finds_time_in_a_plate():
    """At the last step it has what the smoother has."""

    def model(y):
        with numpyro.plate("data", N):
            x = path(len(y))
            with numpyro.plate("time", len(y), dim=-2):
                loc = jnp.moveaxis(x @ LOADING, 0, 1)
                numpyro.sample("y", dist.Normal(loc, 0.4), obs=y)

    guide = ns.AutoSVAE(model)
    make_svi(model, guide).init(random.PRNGKey(0), Y.T)
    state = ns.filter(model, guide, {}, Y.T[:-1]).update(y=Y[:, -1])
    expected = guide.posterior_local({}, Y.T)["x"].mean[:, -1]
    np.testing.assert_allclose(state.beliefs["x"].mean, expected, rtol=1e-8)


def test_a_plate_that_a_latent_vector_has_too_is_none_of_a_chain():
    """Path and vectors are sent gradients, and are independent with the exact means."""

    def model():
        x = path()
        with numpyro.plate("time", T):
            v = numpyro.sample("v", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
            numpyro.sample("y", dist.Normal((x + v) @ LOADING, 0.4), obs=Y[0])

    guide = ns.AutoSVAE(model, fixed_point=ns.FixedPoint(1000, tolerance=1e-12))
    make_svi(model, guide).init(random.PRNGKey(0))
    local = guide.posterior_local({})
    times = np.arange(T)
    variance = (1 - 0.81 ** (times + 1)) / 0.19  # of the steps of each entry
    earlier = np.minimum(times[:, None], times)
    cov = 0.9 ** np.abs(times[:, None] - times) * variance[earlier]
    size = LOADING @ LOADING
    pull = np.linalg.solve(size * cov + (size + 0.16) * np.eye(T), Y[0])
    expected = {"x": cov @ pull, "v": pull}
    for name, value in expected.items():
        own = value[:, None] * LOADING
        np.testing.assert_allclose(local[name].mean, own, rtol=1e-5, atol=1e-6)
