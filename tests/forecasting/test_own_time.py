# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A model that counts its own steps has no future, where that changes its steps."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns

EFFECTS = jnp.array([0.0, 5.0, 10.0])
Y = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6)), jnp.float32)
# What NumPyro's handlers do with scan.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")


def season(steps):
    return EFFECTS[jnp.arange(steps) % 3], 0.5


def tiled(steps):
    return jnp.tile(EFFECTS, 9)[:steps], 0.5


def trend(steps):
    return jnp.cumsum(0.1 * jnp.ones(steps)), 0.5


def change(steps):
    return 0.0, jnp.where(np.arange(steps - 1) < 3, 0.9, -0.5)[:, None, None]


def first_is_special(steps):
    return jnp.where(jnp.arange(steps) == 0, 9.0, 1.0), 0.5


def with_loc(y, loc, weight):
    one = jnp.eye(1)
    with numpyro.plate("series", len(y)):
        chain = ns.LinearGaussianChain(
            jnp.zeros(1), one, weight * one, 0.1 * one, num_steps=y.shape[1]
        )
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Normal(x[..., 0] + loc, 0.3).to_event(1), obs=y)


def both(model, *args, **options):
    """A filter and a forecast."""
    guide = ns.AutoSVAE(model, num_starts=1)
    options = {"horizon": 2, "num_samples": 200, **options}
    yield lambda: ns.forecast(model, guide, {}, random.key(0), *args, **options)
    yield lambda: ns.filter(model, guide, {}, *args)


@pytest.mark.parametrize("made", [season, tiled, trend, change])
def test_steps_that_differ_by_their_own_number_are_refused(made):
    name = "x" if made is change else "y"
    for run in both(lambda y: with_loc(y, *made(y.shape[1])), Y):
        with pytest.raises(
            ValueError, match=f"'{name}': its steps differ by what.*an a"
        ):
            run()


def test_what_is_special_at_the_first_step_is_past():
    forecast, start = both(lambda y: with_loc(y, *first_is_special(y.shape[1])), Y)
    assert abs(forecast()["y"].mean() - 1.0) < 1.0
    assert start().marginals["x"].mean.shape == (2, 1)


def test_a_number_of_the_step_is_an_argument():
    def model(y, number):
        with_loc(y, EFFECTS[number % 3], 0.0)

    later = {"number": jnp.array([6, 7])}
    for run in both(model, Y, jnp.arange(6), future_inputs=later):
        found = run()
        if isinstance(found, dict):
            loc = EFFECTS[later["number"] % 3]
            np.testing.assert_allclose(found["y"].mean((0, 1)), loc, atol=0.2)


def test_a_scan_over_the_numbers_of_its_steps_is_refused():
    def model(y):
        def step(x, given):
            number, seen = given
            x = numpyro.sample("x", dist.MultivariateNormal(0.5 * x, jnp.eye(1)))
            numpyro.sample("y", dist.Normal(x[0] + 0.1 * number, 0.3), obs=seen)
            return x, None

        x = numpyro.sample("start", dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)))
        scan(step, x, (jnp.arange(len(y)), y))

    for run in both(model, Y[0]):
        with pytest.raises(ValueError, match="'y': its steps differ by"):
            run()
