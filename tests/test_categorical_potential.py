# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Potentials of discrete sites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns


def test_values_sums_and_expectations():
    first = ns.CategoricalPotential(jnp.array([[0.5, -jnp.inf, 1.0], [0.0, 1.0, 2.0]]))
    second = ns.CategoricalPotential.from_probs([0.5, 0.25, 0.0])
    np.testing.assert_allclose(first(jnp.array([2, 1])), [1.0, 1.0])
    assert first(jnp.array([1, 1]))[0] == -jnp.inf
    total = first + second
    assert total.batch_shape == (2,)
    assert total.num_states == 3
    np.testing.assert_allclose(
        total(jnp.array([0, 1])), [0.5 + np.log(0.5), 1 + np.log(0.25)]
    )
    probs = jnp.array([[0.5, 0.0, 0.5], [0.25, 0.5, 0.25]])
    np.testing.assert_allclose(first.expected(probs), [0.75, 1.0])


def test_labels_rule_out_the_others_where_they_are_known():
    labels = jnp.array([2, 7, 0])
    potential = ns.CategoricalPotential.from_labels(labels, 3, jnp.array([1, 0, 1]))
    infinity = np.inf
    np.testing.assert_array_equal(
        potential.logits,
        [[-infinity, -infinity, 0.0], [0.0, 0.0, 0.0], [0.0, -infinity, -infinity]],
    )


def test_what_is_masked_has_no_gradient():
    def loss(logits):
        potential = ns.CategoricalPotential(logits).mask(jnp.array([True, False]))
        return jnp.sum(potential.expected(jnp.full((2, 2), 0.5)))

    gradient = jax.grad(loss)(jnp.array([[0.0, 1.0], [jnp.nan, jnp.inf]]))
    np.testing.assert_array_equal(gradient, [[0.5, 0.5], [0.0, 0.0]])


def test_it_is_a_pytree():
    potential = ns.CategoricalPotential(jnp.zeros((4, 3)))
    doubled = jax.vmap(lambda p: p + p)(potential)
    assert isinstance(doubled, ns.CategoricalPotential)
    assert doubled.batch_shape == (4,)


def test_errors():
    potential = ns.CategoricalPotential(jnp.zeros((4, 3)))
    with pytest.raises(
        ValueError, match=r"over 2 states; accepted are potentials over 3"
    ):
        potential + ns.CategoricalPotential(jnp.zeros((4, 2)))
    with pytest.raises(TypeError):
        potential + 1.0
    with pytest.raises(ValueError, match=r"mask: found shape \(5,\).*\(4,\)"):
        potential.mask(jnp.ones(5, bool))
    with pytest.raises(ValueError, match="labels: found float32"):
        ns.CategoricalPotential.from_labels(jnp.zeros(4), 3)
