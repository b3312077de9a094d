# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Scaled messages against log-sum-exp, also where exponentials round to zero."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
import numpy as np
import pytest

from numpyro_svae.blocks.discrete_chain import smooth
from numpyro_svae.blocks.discrete_steps import repaired

STEPS, STATES, BATCH = 5, 3, 4
SHAPES = {
    "shared": (1, STATES, STATES),
    "by step": (STEPS - 1, STATES, STATES),
    "by sequence": (BATCH, 1, STATES, STATES),
    "by both": (BATCH, STEPS - 1, STATES, STATES),
}
# With 300, every exponential of some sums is zero, in float64 too.
SPREADS = [1.0, 300.0]


def case(kind, spread, seed=0):
    """Log weights of the start and the steps, and log potentials of a batch."""
    rng = np.random.default_rng(seed)
    shapes = (STATES,), SHAPES[kind], (BATCH, STEPS, STATES)
    return tuple(spread * rng.standard_normal(shape) for shape in shapes)


def plain(initial, steps, said):
    """The same as smooth, by sums of exponentials, for one sequence after another."""

    def one(initial, steps, said):
        steps = jnp.broadcast_to(steps, (STEPS - 1, STATES, STATES))
        before, after = [initial], [jnp.zeros(STATES)]
        for t in range(STEPS - 1):
            total = (before[-1] + said[t])[:, None] + steps[t]
            before.append(logsumexp(total, 0))
            total = steps[-1 - t] + said[-1 - t] + after[0]
            after.insert(0, logsumexp(total, 1))
        before, after = jnp.stack(before), jnp.stack(after)
        total = before + said + after
        rows = steps + (said + after)[1:, None, :] - after[:-1, :, None]
        value = logsumexp(total[0])
        return jnp.exp(total[0] - value), jnp.exp(rows), jnp.exp(total - value), value

    steps = jnp.broadcast_to(steps, (BATCH, *steps.shape[-3:]))
    found = [one(initial, *each) for each in zip(steps, said)]
    return tuple(jnp.stack(x) for x in zip(*found))


def loss(way):
    """A function of all that is found."""
    rng = np.random.default_rng(1)
    shapes = (STATES,), (STEPS - 1, STATES, STATES), (STEPS, STATES), ()
    weights = [rng.standard_normal((BATCH, *shape)) for shape in shapes]

    def value(*args):
        return sum(jnp.sum(w * x) for w, x in zip(weights, way(*args)))

    return value


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("kind", SHAPES)
def test_values_and_gradients(x64, kind, spread):
    args = tuple(map(jnp.asarray, case(kind, spread)))
    for found, expected in zip(smooth(*args), plain(*args)):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
    found, expected = (
        jax.jit(jax.grad(loss(way), (0, 1, 2)))(*args) for way in (smooth, plain)
    )
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("kind", ["shared", "by both"])
def test_second_derivatives(x64, kind, spread):
    """Of a function of the gradient, as where a sum of pairs is part of a loss."""
    args = tuple(map(jnp.asarray, case(kind, spread)))

    def slope(way):
        def value(*args):
            slopes = jax.grad(loss(way), (0, 1, 2))(*args)
            return sum(jnp.sum(jnp.sin(x)) for x in slopes)

        return jax.jit(jax.grad(value, (0, 1, 2)))

    for a, b in zip(slope(smooth)(*args), slope(plain)(*args)):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_third_derivatives(x64):
    args = tuple(map(jnp.asarray, case("shared", 1.0)))

    def third(way):
        def along(scale):
            return way(args[0], args[1], scale * args[2])[3].sum()

        return jax.jit(jax.grad(jax.grad(jax.grad(along))))

    np.testing.assert_allclose(third(smooth)(1.0), third(plain)(1.0), rtol=1e-9)


@pytest.mark.parametrize("spread", SPREADS)
def test_a_batch_is_what_vmap_makes_of_one(spread):
    initial, steps, said = (
        jnp.asarray(x, jnp.float32) for x in case("by both", spread)
    )
    steps = steps.at[0].multiply(1 / spread)  # safe, whatever the others are

    def run(steps, said):
        found = smooth(initial, steps, said)
        return jnp.sum(found.probs**2) + jnp.sum(found.log_normalizer), found

    run = jax.value_and_grad(run, (0, 1), has_aux=True)
    (_, whole), slopes = run(steps, said)
    (_, each), found = jax.vmap(run)(steps, said)
    for a, b in zip(jax.tree.leaves((whole, slopes)), jax.tree.leaves((each, found))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_slow_way_is_taken_only_where_it_is_needed():
    calls = []

    def slow(x):
        jax.debug.callback(lambda: calls.append(1))
        return 2 * x

    def run(safe):
        found = jax.vmap(lambda safe: repaired(safe, 1.0, slow, 1.0))(jnp.array(safe))
        jax.effects_barrier()
        return found

    np.testing.assert_array_equal(run([True, True]), [1.0, 1.0])
    assert not calls
    np.testing.assert_array_equal(run([True, False]), [1.0, 2.0])
    assert calls


def test_a_chain_whose_only_paths_are_all_but_impossible():
    """Sharp transitions against sharper potentials, in float32 and in float64."""
    rng = np.random.default_rng(0)
    initial, steps = np.zeros(3), -200 * (1 - np.eye(3))[None]
    said = 150 * rng.standard_normal((8, 3))
    with jax.enable_x64(True):
        exact = smooth(*map(jnp.asarray, (initial, steps, said)))
    rough = smooth(*(jnp.asarray(x, jnp.float32) for x in (initial, steps, said)))
    np.testing.assert_allclose(rough.probs, exact.probs, atol=1e-4)
    np.testing.assert_allclose(
        rough.transition_probs, exact.transition_probs, atol=1e-4
    )
    np.testing.assert_allclose(rough.log_normalizer, exact.log_normalizer, rtol=1e-5)


def test_a_state_that_rounding_would_lose_at_both_ends():
    """What is said first and last all but rules out the state that wins in between."""
    steps = jnp.where(jnp.eye(2) > 0, 0.0, -jnp.inf)[None]
    said = jnp.zeros((9, 2)).at[:, 0].set(jnp.array([-120.0, *[40.0] * 7, -120.0]))
    found = smooth(jnp.zeros(2), steps, said)
    np.testing.assert_allclose(found.probs[:, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(found.log_normalizer, 40.0, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("kind", ["nothing", "a state", "a step", "a time"])
def test_what_is_impossible_is_no_nan(steps, kind):
    """In one sequence of two; no probability and no derivative is NaN."""
    logs, said = jnp.zeros((1, 2, 2)), jnp.zeros((2, steps, 2)).at[1, :, 0].set(1.0)
    if kind == "a state":
        said = said.at[0, :, 0].set(-jnp.inf)
    if kind == "a step":
        logs = jnp.array([[[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]]])
        said = said.at[0, -1, 0].set(-jnp.inf)
    if kind == "a time":
        said = said.at[0, steps // 2].set(-jnp.inf)

    def value(logs, said):
        found = smooth(jnp.zeros(2), logs, said)
        total = sum(jnp.sum(x**2) for x in found[:3])
        return total + jnp.sum(found.log_normalizer), found

    slopes, found = jax.grad(value, (0, 1), has_aux=True)(logs, said)
    second = jax.jacrev(jax.grad(lambda *x: value(*x)[0]), (0, 1))(logs, said)
    for x in jax.tree.leaves((slopes, second, found[:3])):
        assert np.all(np.isfinite(x))
    np.testing.assert_allclose(jnp.sum(found.probs, -1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(found.transition_probs, -1), 1.0, rtol=1e-6)
    gone = kind == "a time" or (kind == "a step" and steps > 1)
    assert np.isneginf(found.log_normalizer[0]) == gone
    assert np.isfinite(found.log_normalizer[1]) or kind == "a step"


def test_float32_derivatives_are_close_over_thousands_of_steps():
    """Of the numbers of transitions, which are a gradient themselves."""
    rng = np.random.default_rng(3)
    initial, steps = np.zeros(3), rng.standard_normal((1, 3, 3))
    args = initial, steps, rng.standard_normal((4000, 3))

    def spread(initial, steps, said):
        numbers = jax.grad(lambda x: smooth(initial, x, said).log_normalizer)(steps)
        return jnp.sum((numbers / len(said)) ** 2)

    step = jax.jit(jax.grad(spread, (1, 2)))
    rough = step(*(jnp.asarray(x, jnp.float32) for x in args))
    with jax.enable_x64(True):
        exact = step(*map(jnp.asarray, args))
    for a, b in zip(rough, exact):
        np.testing.assert_allclose(a, b, atol=1e-3 * np.max(np.abs(b)))
