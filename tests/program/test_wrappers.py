# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is around a distribution: it is taken off, and put back."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from numpyro_svae.program.run.wrappers import (
    Layer,
    as_vectors,
    at_positions,
    peel,
    shape_of,
)

SEEN = jnp.array([True, False, True])
LOC = jnp.arange(6.0).reshape(2, 3)


def test_layers_are_taken_off_one_by_one():
    fn = dist.Normal(LOC, 1.0).mask(SEEN).to_event(1).expand([4, 2])
    added, masks = 0, 0
    while (layer := Layer.of(fn)) is not None:
        again = layer.around(layer.inner)
        assert again.shape() == fn.shape()
        added, masks = added + layer.added, masks + (layer.mask is not None)
        fn = layer.inner
    assert (added, masks, fn.batch_shape) == (1, 1, (2, 3))


def test_masks_are_joined_where_events_are():
    whole = jnp.array([[True], [False]])
    fn = dist.Normal(LOC, 1.0).mask(SEEN).to_event(1).mask(whole[:, 0])
    base, mask, extra = peel(fn)
    assert isinstance(base, dist.Normal) and extra == 1
    np.testing.assert_array_equal(mask, whole & SEEN)


@pytest.mark.parametrize(
    "fn",
    [
        dist.LowRankMultivariateNormal(jnp.ones(3), jnp.ones((3, 1)), jnp.ones(3)),
        dist.CirculantNormal(jnp.ones(4), covariance_row=jnp.array([3.0, 1, 0.5, 1])),
        dist.CAR(jnp.ones(3), 0.3, 2.0, jnp.ones((3, 3)) - jnp.eye(3)),
        dist.GaussianRandomWalk(0.5, 4),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_gaussian_vectors_come_by_their_covariance(fn):
    base, _, _ = peel(fn.expand([2]))
    value = jnp.linspace(-1.0, 1.0, fn.event_shape[0])
    assert isinstance(base, dist.MultivariateNormal)
    np.testing.assert_allclose(base.log_prob(value), fn.log_prob(value), rtol=1e-5)


@pytest.mark.parametrize("extra", [1, 2])
def test_events_become_positions(extra):
    fn = dist.Normal(LOC, 1.0).mask(SEEN).to_event(2).expand([5])
    found = at_positions(fn, extra)
    assert found.batch_shape == (5, 2, 3)[: 1 + extra]
    value = jnp.ones((5, 2, 3))
    total = found.log_prob(value).reshape(5, -1).sum(-1)
    np.testing.assert_allclose(total, fn.log_prob(value), rtol=1e-6)


def test_what_is_not_independent_stays_whole():
    assert at_positions(dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3)), 1) is None


def test_a_shape_has_the_wrappers_and_no_parameters():
    fn = dist.Poisson(LOC).mask(SEEN).to_event(1)
    found = shape_of(fn)
    assert (found.batch_shape, found.event_shape) == ((2,), (3,))
    np.testing.assert_array_equal(peel(found)[1], SEEN & jnp.ones((2, 1), bool))
    assert not hasattr(peel(found)[0], "rate")


def test_numbers_as_vectors_have_the_same_density():
    fn = dist.Normal(LOC, 2.0).to_event(1)
    vector, value = as_vectors(fn, LOC + 1)
    assert vector.event_shape == (3, 1)
    np.testing.assert_allclose(vector.log_prob(value), fn.log_prob(LOC + 1), rtol=1e-6)
