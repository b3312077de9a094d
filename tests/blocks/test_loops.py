# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops over time against arrays that have all of it at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.blocks import loops


@pytest.mark.parametrize("shared", ["nothing", "lanes", "time"])
@pytest.mark.parametrize("own", [1, 2, 5])
def test_blocks_of_steps_are_all_steps(monkeypatch, own, shared):
    """Blocks of two and five overlap at the end of seven steps."""
    monkeypatch.setattr(loops, "steps_at_once", lambda length, lanes: own)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 2, 7, 4)))
    y = {"nothing": x[::-1], "lanes": x[..., :1], "time": x[..., :1, :]}[shared]

    def function(x, y):
        return x * y, y + 1.0

    found = loops.each_step(function, 7, x, y)
    for one, expected in zip(found, function(x, y), strict=True):
        np.testing.assert_array_equal(one, jnp.broadcast_to(expected, one.shape))
    assert found[0].shape == x.shape


@pytest.mark.parametrize("lanes", [2, 16])
@pytest.mark.parametrize("reverse", [False, True])
def test_states_and_outputs_over_time(lanes, reverse):
    x = jnp.arange(10.0 * lanes).reshape(2, 5, lanes)

    def step(total, here):
        return total + here, total

    last, out = loops.over_time(step, jnp.zeros((2, lanes)), 5, x, reverse=reverse)
    order = x[:, ::-1] if reverse else x
    before = jnp.cumsum(order, 1) - order
    np.testing.assert_array_equal(out, before[:, ::-1] if reverse else before)
    np.testing.assert_array_equal(last, jnp.sum(x, 1))
