# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Arguments that are nested go on as those that stand by themselves do."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns

T, KEY = 5, random.PRNGKey(0)
Y = jnp.asarray(np.random.default_rng(0).standard_normal(T), jnp.float32)
PUSH, LEVEL = jnp.linspace(-1.0, 1.0, T - 1)[:, None], jnp.arange(T) / 4.0
AHEAD = {"push": jnp.ones((2, 1)), "level": jnp.array([3.0, 4.0])}


def plain(y, push, level):
    one = jnp.eye(1)
    chain = ns.LinearGaussianChain(
        jnp.zeros(1), one, jnp.array([[0.9, 1.0]]), 0.1 * one, inputs=push
    )
    x = numpyro.sample("x", chain)
    numpyro.sample("y", dist.Normal(x[:, 0] + level, 0.3).to_event(1), obs=y)


def nested(data, inputs):
    plain(data["y"], inputs["push"], inputs["level"])


ARGS = {plain: (Y, PUSH, LEVEL), nested: ({"y": Y}, {"push": PUSH, "level": LEVEL})}
FUTURE = {plain: AHEAD, nested: {"inputs": AHEAD}}


def test_nested_values_are_those_of_their_arguments():
    found = []
    for model, args in ARGS.items():
        fit = model, ns.AutoSVAE(model), {}
        options = {"horizon": 2, "future_inputs": FUTURE[model], "num_samples": 3}
        paths = ns.forecast(*fit, KEY, *args, **options)
        step = jax.tree.map(lambda leaf: leaf[0], FUTURE[model])
        seen = {"data": {"y": 0.5}} if model is nested else {"y": 0.5}
        state = ns.filter(*fit, *args).update(**seen, **step)
        found.append((paths, state.bound, state.marginals["x"].mean))
    jax.tree.map(np.testing.assert_allclose, *found)


def test_what_is_missing_within_an_argument_is_named():
    fit = nested, ns.AutoSVAE(nested), {}
    future = {"inputs": {"push": AHEAD["push"]}}
    with pytest.raises(ValueError, match=r"Argument \"inputs\['level'\]\".*shape \(2"):
        ns.forecast(*fit, KEY, *ARGS[nested], horizon=2, future_inputs=future)
