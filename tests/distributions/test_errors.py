# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Each wrong argument has a message that names it, what was found and what would do."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_svae.distributions import (
    MatrixNormalInverseWishart,
    NonlinearGaussianChain,
    NormalInverseWishart,
)

EYE = np.eye(2)
NIW = {"loc": np.zeros(2), "concentration": 1.0, "df": 4.0, "scale_matrix": EYE}
MNIW = {
    "loc": np.zeros((2, 3)),
    "column_precision": np.eye(3),
    "df": 4.0,
    "scale_matrix": EYE,
}
TRIL = {"scale_matrix": None}
SKEW = np.array([[1.0, 0.5], [0.3, 1.0]])
INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])

VALUES = [
    ({"loc": np.array([0.0, np.nan])}, "loc must be finite; got 1 entries"),
    (
        {"df": 1.0},
        "df must be finite and greater than D - 1 = 1, D = 2 being the dimension of "
        "the covariance matrix; got 1.",
    ),
    ({"df": np.array([5.0, 0.5])}, "covariance matrix; got 0.5."),
    ({"df": np.nan}, "covariance matrix; got nan."),
    ({"df": np.inf}, "covariance matrix; got inf."),
    ({"concentration": 0.0}, "concentration must be positive and finite; got 0."),
    ({"concentration": np.inf}, "concentration must be positive and finite; got inf."),
    (
        {"scale_matrix": SKEW},
        "scale_matrix must be symmetric and positive definite; got a matrix that "
        "differs from its transpose by up to 0.2.",
    ),
    (
        {"scale_matrix": INDEFINITE},
        "scale_matrix must be symmetric and positive definite (in float32); got a "
        "matrix whose smallest eigenvalue is -1.",
    ),
    ({"scale_matrix": np.nan * EYE}, "scale_matrix must be finite; got 4 entries"),
    (
        {**TRIL, "scale_tril": INDEFINITE},
        "scale_tril must be lower triangular with a positive diagonal; got entries "
        "other than zero above the diagonal.",
    ),
    (
        {**TRIL, "scale_tril": -EYE},
        "scale_tril must be lower triangular with a positive diagonal; got -1 on the",
    ),
    (
        {**TRIL, "scale_tril": np.array([[np.inf, 0.0], [1.0, 1.0]])},
        "scale_tril must be lower triangular with a positive diagonal and finite; got",
    ),
]

SHAPES = [
    ({"loc": 0.0}, "loc must have shape (..., D), none of these sizes zero; got"),
    ({"loc": np.zeros(0)}, "none of these sizes zero; got shape (0,)."),
    (
        {"loc": np.zeros(3)},
        "scale_matrix must have shape (..., 3, 3), where loc has shape (3,); got "
        "shape (2, 2).",
    ),
    ({"scale_matrix": np.ones(2)}, "scale_matrix must have shape (..., 2, 2), where"),
    (
        {"df": np.ones(3) * 4, "concentration": np.ones(2)},
        "the batch shapes of the arguments must broadcast; got {'loc': (), "
        "'concentration': (2,), 'df': (3,), 'scale_matrix': ()}.",
    ),
    (TRIL, "takes exactly one of scale_matrix or scale_tril; got neither."),
    (
        {"scale_tril": EYE},
        "takes exactly one of scale_matrix or scale_tril; got scale_matrix and "
        "scale_tril.",
    ),
]


def raised(cls, arguments, changes, **kwargs) -> str:
    with pytest.raises(ValueError, match=cls.__name__) as error:
        cls(**{**arguments, **changes}, **kwargs)
    return str(error.value)


@pytest.mark.parametrize("changes, message", [*VALUES, *SHAPES])
def test_niw(changes, message):
    assert message in raised(NormalInverseWishart, NIW, changes, validate_args=True)


@pytest.mark.parametrize("changes, message", VALUES)
def test_niw_values_without_validation_or_under_jit(changes, message):
    arguments = {**NIW, **changes}
    given = {name: jnp.asarray(x) for name, x in arguments.items() if x is not None}
    NormalInverseWishart(**arguments, validate_args=False)
    jax.jit(lambda given: NormalInverseWishart(**given, validate_args=True).loc)(given)


@pytest.mark.parametrize("changes, message", SHAPES)
def test_niw_shapes_without_validation(changes, message):
    assert message in raised(NormalInverseWishart, NIW, changes, validate_args=False)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loc": np.zeros(2)}, "loc must have shape (..., D, M), none of these sizes"),
        (
            {"column_precision": EYE},
            "column_precision must have shape (..., 3, 3), where loc has shape (2, 3); "
            "got shape (2, 2).",
        ),
        (
            {"column_precision": -np.eye(3)},
            "column_precision must be symmetric and positive definite (in float32); "
            "got a matrix whose smallest eigenvalue is -1.",
        ),
        (
            {"column_precision": np.eye(3) + np.triu(np.ones((3, 3)), 1)},
            "column_precision must be symmetric and positive definite; got a matrix "
            "that differs from its transpose by up to 1.",
        ),
        ({"df": 0.9}, "df must be finite and greater than D - 1 = 1"),
        (
            {"scale_matrix": np.diag([0.0, 1e-9]) + 1},
            "scale_matrix must be symmetric and positive definite (in float32)",
        ),
        ({"scale_matrix": INDEFINITE}, "scale_matrix must be symmetric and positive"),
        (TRIL, "takes exactly one of scale_matrix or scale_tril; got neither."),
    ],
)
def test_mniw(changes, message):
    assert message in raised(
        MatrixNormalInverseWishart, MNIW, changes, validate_args=True
    )


def test_from_natural_parameters_outside_the_domain():
    natural = NormalInverseWishart(**NIW).natural_parameters
    outside = natural.scale(jnp.asarray(0.1))
    with pytest.raises(ValueError, match=re.escape("df must be finite and greater")):
        NormalInverseWishart.from_natural_parameters(outside, validate_args=True)
    made = NormalInverseWishart.from_natural_parameters(outside, validate_args=False)
    assert float(made.df) == pytest.approx(0.4)


def test_integer_arguments_are_accepted():
    made = NormalInverseWishart(np.arange(2), 1, 4, 2 * np.eye(2, dtype=int))
    assert {x.dtype for x in jax.tree.leaves(made)} == {np.dtype("float32")}
    np.testing.assert_allclose(made.scale_matrix, 2 * EYE, rtol=1e-6)


def test_a_transition_takes_a_state_and_inputs():
    with pytest.raises(ValueError, match="transition: found a function of other arg"):
        NonlinearGaussianChain(np.zeros(2), EYE, lambda x: x, EYE, num_steps=3)
