# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The part of NumPyro's battery on wrappers, pytrees, vmap and pickling."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, ExpandedDistribution
from numpyro.distributions.batch_util import promote_batch_shape, vmap_over
import pytest

from tests.distributions.cases import (
    CASES,
    CHAINS,
    Case,
    draws,
    every_case,
    every_case_with_moments,
    log_prob,
    one_draw,
)
from tests.distributions.test_battery import log_prob_shape_of, sample_shape_of


def assert_same(actual: Distribution, expected: Distribution, **tolerance) -> None:
    """The two have the same shapes and parameters."""
    assert type(actual) is type(expected)
    assert actual.batch_shape == expected.batch_shape
    assert actual.event_shape == expected.event_shape
    for name in expected.arg_constraints:
        np.testing.assert_allclose(
            getattr(actual, name), getattr(expected, name), **tolerance
        )


@every_case
@pytest.mark.parametrize("prepend", [(), (2, 3)])
@pytest.mark.parametrize("sample_shape", [(), (4,)])
def test_expand(case: Case, prepend, sample_shape):
    made = case.make()
    batch_shape = prepend + made.batch_shape
    expanded = made.expand(batch_shape)
    assert expanded.batch_shape == batch_shape
    shape = sample_shape + batch_shape + made.event_shape
    assert sample_shape_of(expanded, sample_shape) == shape
    assert log_prob_shape_of(expanded, shape) == sample_shape + batch_shape
    assert expanded.expand((3,) + batch_shape).batch_shape == (3,) + batch_shape
    if prepend:
        with pytest.raises(ValueError, match="Cannot broadcast distribution of shape"):
            expanded.expand((3,) + made.batch_shape)


def test_expand_shuffle():
    """Draws of an expanded distribution stay beside their own parameters."""
    loc = 10 * jax.random.normal(jax.random.key(0), (2, 1, 5, 2))
    made = CASES[0].make(loc=loc, df=50.0).expand((2, 3, 5))
    samples = jax.jit(lambda key: made.sample(key, (200,)))(jax.random.key(1))
    expected = jnp.broadcast_to(loc, (2, 3, 5, 2))
    np.testing.assert_allclose(samples.mean(0)[..., 0], expected, atol=0.2)


def test_expand_after_to_event():
    made = CASES[0].make().expand([4, 1, 1, 1]).to_event(1)
    assert made.batch_shape == (4, 1, 1)
    assert made.event_shape == (1, 2, 3)
    large = made.expand((4, 3, 2))
    assert sample_shape_of(large) == (4, 3, 2, 1, 2, 3)
    with pytest.raises((RuntimeError, ValueError)):
        made.expand((4, 3, 2, 3))
    with pytest.raises((RuntimeError, ValueError)):
        large.expand((3, 2))


@every_case
def test_mask(case: Case):
    made, value = case.make(), one_draw(case)
    plain = log_prob(made, value)
    for mask in (True, False, np.arange(3)[:, None, None] > 0):
        shape = jnp.broadcast_shapes(np.shape(mask), made.batch_shape)
        actual = log_prob(made.mask(mask), value)
        expected = np.where(mask, np.broadcast_to(plain, shape), 0.0)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@every_case
def test_gradient_past_masked_nan(case: Case):
    made, location = case.make(), next(iter(case.arrays))
    good, event = one_draw(case), tuple(range(-made.event_dim, 0))
    data = jnp.stack([good, jnp.full_like(good, jnp.nan)])

    @jax.jit
    @jax.value_and_grad
    def masked(loc):
        observed = jnp.isfinite(data).all(event)
        filled = jnp.where(jnp.isfinite(data), data, good)
        return case.make(**{location: loc}).mask(observed).log_prob(filled).sum()

    value, gradient = masked(getattr(made, location))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@every_case
def test_jit_and_map_return_distributions(case: Case):
    made = case.make()
    assert_same(jax.jit(lambda _: case.make())(0), made, rtol=1e-6)
    assert_same(jax.jit(lambda d: d)(made), made, rtol=0)
    assert_same(type(made).tree_unflatten(*made.tree_flatten()[::-1]), made, rtol=0)
    mapped = jax.lax.map(lambda _: case.make(), np.ones(3))
    for actual, plain in zip(*map(jax.tree.leaves, (mapped, made)), strict=True):
        assert actual.shape == (3,) + plain.shape
    value = one_draw(case)
    np.testing.assert_allclose(
        log_prob(jax.jit(lambda _: case.make())(0), value),
        log_prob(made, value),
        rtol=1e-5,
    )


@every_case
@pytest.mark.parametrize("method, argument", [("mask", False), ("expand_by", [5])])
def test_jit_returns_wrapped_distributions(case: Case, method, argument):
    def wrap(_):
        return getattr(case.make().expand_by([2]).to_event(1), method)(argument)

    wrapped = jax.jit(wrap)(0)
    assert wrapped.batch_shape == wrap(0).batch_shape
    jax.lax.map(wrap, np.ones(3))


@every_case_with_moments
def test_pytree_does_not_change_with_what_was_read(case: Case):
    init, unread = case.make(), case.make()
    assert isinstance(init.variance, jax.Array)
    assert case in CHAINS or "scale_matrix" in init.__dict__
    assert jax.tree.structure(init) == jax.tree.structure(unread)
    jax.lax.scan(lambda *_: (case.make(), None), init, jnp.arange(3))


@every_case
def test_expanded_pytree_keeps_the_batch_shape_of_its_base(case: Case):
    def expand(_):
        made = case.make()
        return made.expand((10, 3, *made.batch_shape))

    expected = expand(0)
    for actual in (
        type(expected).tree_unflatten(*expected.tree_flatten()[::-1]),
        jax.jit(expand)(0),
    ):
        assert isinstance(actual, ExpandedDistribution)
        assert actual.batch_shape == expected.batch_shape
        assert_same(actual.base_dist, expected.base_dist, rtol=1e-6)


@every_case
def test_vmap_over_constructor_and_distribution(case: Case):
    names, plain = list(case.arrays), case.make()
    values = [jnp.asarray(case.arrays[name]) for name in names]

    def make(*values):
        return case.make(**dict(zip(names, values, strict=True)))

    choices = [([0] * len(names), 0)]
    for chosen, value in zip(names, values, strict=True):
        for axis in (0, 1)[: 1 + min(1, value.ndim)]:
            in_axes = [axis if name == chosen else None for name in names]
            choices += [(in_axes, 0)] * (axis == 0)
            if len(plain.batch_shape) == 0:
                choices += [(in_axes, vmap_over(case.make(), **{chosen: axis}))]
    for in_axes, out_axes in choices:
        batched = jax.vmap(make, in_axes=in_axes, out_axes=out_axes)(
            *[
                x if axis is None else jnp.expand_dims(x, axis)
                for x, axis in zip(values, in_axes, strict=True)
            ]
        )
        equal = jax.vmap(
            lambda x, y: jax.tree.map(jnp.allclose, x, y), in_axes=(out_axes, None)
        )(batched, plain)
        assert all(np.all(leaf) for leaf in jax.tree.leaves(equal))
        sampled = jax.eval_shape(
            jax.vmap(lambda d: d.sample(jax.random.key(0)), in_axes=(out_axes,)),
            batched,
        )
        assert sampled.shape == (1, *plain.shape())


@every_case
def test_promote_batch_shape(case: Case):
    plain = case.make()
    batched = jax.vmap(lambda _: case.make())(jnp.zeros(7))
    promoted = promote_batch_shape(batched)
    assert promoted.batch_shape == (7, *plain.batch_shape)
    assert sample_shape_of(promoted) == (7, *plain.shape())


@every_case
def test_pickle_and_copy(case: Case):
    made = case.make()
    for again in (
        pickle.loads(pickle.dumps(made)),
        copy.copy(made),
        copy.deepcopy(made),
    ):
        assert_same(again, made, rtol=0)
        assert again.support == made.support


@every_case
def test_precision_is_kept(case: Case):
    def dtypes(made):
        key = jax.random.key(0)
        value = jax.eval_shape(made.sample, key)
        read = jax.eval_shape(
            lambda: (made.sample(key), made.log_prob(made.sample(key)), made.entropy())
        )
        return {x.dtype for x in jax.tree.leaves((value, read, made))}

    assert dtypes(case.make()) == {np.dtype("float32")}
    with jax.enable_x64(True):
        assert dtypes(case.make()) == {np.dtype("float64")}
        single = {name: np.float32(x) for name, x in case.arrays.items()}
        assert dtypes(case.make(**single)) == {np.dtype("float32")}


@every_case
def test_empty_batch(case: Case):
    # NumPyro's own real_matrix, the support of a chain, cannot check an empty batch.
    made = case.make(validate_args=False).expand((0, *case.make().batch_shape))
    value = jnp.zeros(made.shape())
    assert made.log_prob(value).shape == made.batch_shape
    assert sample_shape_of(made, (0, 2)) == (0, 2, *made.shape())


@every_case
def test_samples_of_whole_batches_differ(case: Case):
    values = draws(case)[:4].reshape(-1, np.prod(case.make().event_shape))
    assert len(np.unique(values[:, 0])) == len(values)
