# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Loops over time against arrays that have all of it at once."""

import jax
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


@pytest.mark.parametrize("count", [0, 1, 3, 9, 70])
def test_a_sum_in_pairs_is_the_sum(count):
    """And so is its derivative; a zero makes an odd number even."""
    x = jnp.arange(2.0 * count).reshape(count, 2) - 3.0
    found, pull = jax.vjp(loops.pairwise_sum, x)
    np.testing.assert_array_equal(found, np.sum(x, 0))
    np.testing.assert_array_equal(pull(found)[0], np.broadcast_to(found, x.shape))


def test_a_sum_in_pairs_keeps_its_digits():
    """A running sum of so many is off by thousands of rounding errors."""
    x = np.full((100_000, 1), np.float32(0.1))
    error = loops.pairwise_sum(jnp.asarray(x)) - x.sum(0, dtype=np.float64)
    assert abs(float(error[0])) < 1e-2
    assert abs(float(np.cumsum(x)[-1]) - 1e4) > 0.1
