# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Averages of regressions over states, against their definition."""

import jax
from jax import random
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from numpyro_svae.blocks import switching

D, M, K, N = 2, 3, 4, 3


def by_definition(weight, whitener, excess, probs):
    """Lanes first, all arrays with as many."""
    arrays = (
        jnp.broadcast_to(x, (*x.shape[:-1], N)) for x in (weight, whitener, excess)
    )
    weight, whitener, excess = (jnp.moveaxis(x, (-1, -2), (0, 1)) for x in arrays)
    share = probs.T[..., None, None]
    precision = jnp.swapaxes(whitener, -1, -2) @ whitener
    total = jnp.sum(share * precision, 1)
    covariance = jnp.linalg.solve(total, jnp.eye(D))
    mean = jnp.linalg.solve(total, jnp.sum(share * precision @ weight, 1))
    gap = weight - mean[:, None]
    spread = jnp.swapaxes(gap, -1, -2) @ precision @ gap
    found = mean, covariance, jnp.sum(share * (excess + spread), 1)
    return tuple(jnp.moveaxis(x, 0, -1) for x in found)


@pytest.mark.parametrize("lanes", [1, N])
def test_an_average_and_its_derivative(x64, lanes):
    """Also where all positions have the same regressions."""
    keys = random.split(random.key(0), 4)
    shapes = (D, M, K, lanes), (D, D, K, lanes), (M, M, K, lanes)
    states = [random.normal(key, shape) for key, shape in zip(keys, shapes)]
    states[2] = states[2] + jnp.swapaxes(states[2], 0, 1)
    probs = jax.nn.softmax(random.normal(keys[3], (K, N)), 0)

    @jax.jit
    def average(*args):
        return switching.average(switching.States(*args[:3]), args[3])

    for found, expected in zip(average(*states, probs), by_definition(*states, probs)):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    check_grads(average, (*states, probs), 1, modes="rev")
