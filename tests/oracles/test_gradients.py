# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gradients of the ELBO against finite differences, at a fixed random key.

Natural parameters get the natural gradient; Fisher information times it is the ordinary
one.
"""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from numpyro_svae.families import NaturalParameters
from tests.data import make_svi, sequences
from tests.models import (
    known_lds,
    lds_recognition,
    lds_svae,
    linear_lds,
    mixture_recognition,
    mixture_svae,
)

CASES = {
    "mixture": (mixture_svae, mixture_recognition, False),
    "mixture-mean-field": (mixture_svae, mixture_recognition, True),
    "lds": (lds_svae, lds_recognition, False),
    "lds-points": (partial(lds_svae, globals="point"), lds_recognition, False),
    "linear": (linear_lds, None, False),
    "known-points": (partial(known_lds, learn=True), None, False),
}
STEP = 1e-5


def is_natural(tree):
    return isinstance(tree, NaturalParameters)


def random_direction(key, tree):
    """A direction in which square matrices are symmetric and small against them."""
    leaves, structure = jax.tree.flatten(tree)
    keys = random.split(key, len(leaves))

    def draw(key, leaf):
        direction = 0.1 * random.normal(key, jnp.shape(leaf), jnp.result_type(leaf))
        square = leaf.ndim > 1 and leaf.shape[-1] == leaf.shape[-2]
        if square:
            direction = direction + jnp.swapaxes(direction, -1, -2)
        return direction

    return structure.unflatten([draw(k, leaf) for k, leaf in zip(keys, leaves)])


def slope(gradient, params, direction):
    """Derivative along a direction, from what SVI is handed as the gradient."""
    total = 0.0
    for name, leaf in gradient.items():
        if is_natural(leaf):
            eta = params[name]
            _, leaf = jax.jvp(lambda e: e.expected_statistics(), (eta,), (leaf,))
        for g, d in zip(jax.tree.leaves(leaf), jax.tree.leaves(direction[name])):
            total += jnp.sum(g * d)
    return total


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_finite_differences(name, x64):
    model, recognition, mean_field = CASES[name]
    y, actions = sequences(count=3, steps=4)
    args = (y[:, 0],) if name.startswith("mixture") else (y, actions)
    # one guess: the best of several is an optimum
    guide = ns.AutoSVAE(model, recognition, mean_field=mean_field, num_starts=1)
    svi = make_svi(model, guide)
    params = svi.get_params(svi.init(random.PRNGKey(0), *args))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return ns.SVAE_ELBO().loss(random.PRNGKey(3), params, model, guide, *args)

    _, gradient = loss(params)
    groups = {is_natural(leaf) for leaf in params.values()}
    for natural in groups:  # each kind of parameter by itself
        direction = {
            key: random_direction(random.PRNGKey(i), leaf)
            if is_natural(leaf) is natural
            else jax.tree.map(jnp.zeros_like, leaf)
            for i, (key, leaf) in enumerate(params.items())
        }

        def shifted(step, direction=direction):
            return jax.tree.map(lambda p, d: p + step * d, params, direction)

        rise = loss(shifted(STEP))[0] - loss(shifted(-STEP))[0]
        expected = slope(gradient, params, direction)
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(rise / (2 * STEP), expected, rtol=1e-6)
