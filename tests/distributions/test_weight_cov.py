# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The support [weight | covariance] and its bijector: NumPyro's checks of both."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.util import matrix_to_tril_vec
import pytest

from numpyro_svae.distributions import weight_cov
from numpyro_svae.distributions.constraints import pack, unpack

SIZES = [(1, 1), (2, 1), (1, 3), (3, 2)]
EYE = np.eye(2)


@pytest.mark.parametrize(
    "value, expected",
    [
        ([[0.5, 2.0, 0.3], [1.0, 0.3, 1.0]], True),
        ([[0.5, 2.0, 0.3], [1.0, 0.4, 1.0]], False),  # not symmetric
        ([[0.5, 1.0, 2.0], [1.0, 2.0, 1.0]], False),  # not positive definite
        ([[0.5, 1.0, 1.0], [1.0, 1.0, 1.0]], False),  # singular
        ([[np.nan, 2.0, 0.3], [1.0, 0.3, 1.0]], False),
        ([[np.inf, 2.0, 0.3], [1.0, 0.3, 1.0]], False),
        ([[0.5, np.nan, 0.3], [1.0, 0.3, 1.0]], False),
        ([[0.5, 2e8, 3e-3], [1.0, 3.005e-3, 1e-8]], True),  # by the scale of each entry
        ([[0.5, 2e-8, 3e-9], [1.0, 4e-9, 1e-8]], False),
    ],
)
def test_constraint(value, expected):
    constraint = weight_cov(1)
    value = np.asarray(value)
    assert constraint(value) == constraint.check(value) == expected
    assert jax.jit(lambda x: constraint(x))(value) == expected
    both = constraint(np.stack([value, pack(np.zeros((2, 1)), EYE)]))
    np.testing.assert_array_equal(both, [expected, True])
    feasible = constraint.feasible_like(value)
    assert feasible.shape == value.shape
    assert constraint(feasible)
    unconstrained = biject_to(constraint).inv(feasible)
    np.testing.assert_allclose(unconstrained, 0, atol=2e-7)


def test_constraint_as_a_value():
    constraint = weight_cov(3)
    assert constraint.event_dim == 2
    assert not constraint.is_discrete
    assert constraint == weight_cov(3)
    assert constraint != weight_cov(2)
    assert constraint != constraints.real
    assert repr(constraint) == "weight_cov(num_columns=3)"
    leaves, structure = jax.tree.flatten(constraint)
    assert leaves == []
    assert jax.tree.unflatten(structure, leaves) == constraint
    assert pickle.loads(pickle.dumps(constraint)) == constraint
    assert constraints.independent(constraint, 1).event_dim == 3


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (2, 4)])
def test_constraint_on_a_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"shape \(\.\.\., D, 1 \+ D\) is expected"):
        weight_cov(1)(np.ones(shape))


@pytest.mark.x64
@pytest.mark.parametrize("batch_shape", [(), (5, 3)])
@pytest.mark.parametrize("dim, num_columns", SIZES)
def test_bijector(dim, num_columns, batch_shape):
    transform = biject_to(weight_cov(num_columns))
    assert transform.domain is constraints.real_vector
    assert transform.codomain == weight_cov(num_columns)
    length = dim * num_columns + dim * (dim + 1) // 2
    x = jax.random.normal(jax.random.key(0), (*batch_shape, length))
    y = transform(x)
    assert y.shape == transform.forward_shape(x.shape)
    assert y.shape == (*batch_shape, dim, num_columns + dim)
    assert transform.inverse_shape(y.shape) == x.shape
    np.testing.assert_array_equal(transform.codomain(y), np.ones(batch_shape, bool))
    np.testing.assert_allclose(transform.inv(y), x, rtol=1e-10, atol=1e-10)
    assert transform.inv(jnp.full(y.shape, jnp.nan)).shape == x.shape
    actual = transform.log_abs_det_jacobian(x, y)
    assert actual.shape == batch_shape
    np.testing.assert_allclose(transform.inv.log_abs_det_jacobian(y, x), -actual)
    if not batch_shape:

        def free_entries(x):
            weight, cov = unpack(transform(x))
            return jnp.concatenate([weight.ravel(), matrix_to_tril_vec(cov)])

        expected = np.linalg.slogdet(jax.jacobian(free_entries)(x))[1]
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


def test_bijector_as_a_value():
    transform = biject_to(weight_cov(2))
    assert transform.inv.inv is transform
    assert transform.inv is transform.inv
    assert transform == biject_to(weight_cov(2))
    assert transform != biject_to(weight_cov(1))
    assert transform != biject_to(constraints.real)
    leaves, structure = jax.tree.flatten(transform)
    assert jax.tree.unflatten(structure, leaves) == transform
    assert pickle.loads(pickle.dumps(transform)) == transform
    x = jnp.linspace(-1, 1, 7)
    np.testing.assert_allclose(jax.jit(lambda t, x: t(x))(transform, x), transform(x))


def test_bijector_on_a_wrong_length():
    with pytest.raises(ValueError, match=r"No D has D \* 2 \+ D \* \(D \+ 1\) / 2 = 4"):
        biject_to(weight_cov(2))(jnp.zeros(4))


def test_covariances_from_the_bijector_are_exactly_symmetric():
    """Otherwise validation, which runs inside NUTS, would reject some of them."""
    transform = biject_to(weight_cov(1))
    x = 3 * jax.random.normal(jax.random.key(1), (200, 4 + 10))
    _, cov = unpack(jax.jit(lambda x: transform(x))(x))
    np.testing.assert_array_equal(cov, cov.mT)
