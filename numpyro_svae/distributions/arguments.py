# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Argument checks whose messages name the argument, what was found and what would do.

Shapes are checked always. Values are checked only where they are concrete and
validation is on, as NumPyro does.
"""

from collections.abc import Mapping
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
from numpyro.distributions import Distribution
from numpyro.util import not_jax_tracer

__all__ = [
    "CheckedArguments",
    "broadcast_batch_shapes",
    "check_values",
    "matrix_shape",
    "one_of",
    "vector_shape",
]


class CheckedArguments(Distribution):
    """A distribution whose arguments are checked with messages of our own."""

    def validate_args(self, strict: bool = True) -> None:
        """Check that the arguments are in their domain.

        :param strict: whether values that are not concrete are an error.
        :raises ValueError: naming the argument, what was found and what is accepted.
        """
        owner, dim = type(self).__name__, self.event_shape[0]
        concrete = check_values(owner, self.get_args(), dim)
        if strict and not concrete:
            raise RuntimeError("Cannot validate arguments inside jitted code.")

    @classmethod
    def infer_shapes(
        cls, *args: Any, **kwargs: Any
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Batch and event shape, from the shapes of the arguments.

        :param args: in place of each array its shape, a tuple; what is no array, such
            as a number of steps or a transition, is given as it is.
        :param kwargs: the same, by name.
        """
        call = inspect.signature(cls).bind(*args, **kwargs)
        given = call.arguments
        if isinstance(given.get("num_steps"), tuple):
            raise ValueError(
                f"{cls.__name__}: num_steps: found the shape {given['num_steps']}; "
                "accepted is the number of steps itself, as it is the size of an event."
            )
        arrays = {n: jnp.zeros(x) for n, x in given.items() if isinstance(x, tuple)}
        made = jax.eval_shape(
            lambda arrays: cls(**given | arrays | {"validate_args": False}), arrays
        )
        return made.batch_shape, made.event_shape


def one_of(owner: str, **candidates: ArrayLike | None) -> tuple[str, ArrayLike]:
    """The name and value of the one argument that is given."""
    given = {name: x for name, x in candidates.items() if x is not None}
    if len(given) != 1:
        found = " and ".join(given) if given else "neither"
        raise ValueError(
            f"{owner} takes exactly one of {' or '.join(candidates)}; got {found}."
        )
    return next(iter(given.items()))


def vector_shape(owner: str, name: str, value: ArrayLike, shape: str) -> tuple[int]:
    """The trailing size of an argument that must have at least one dimension."""
    return _trailing(owner, name, value, shape, 1)


def matrix_shape(
    owner: str, name: str, value: ArrayLike, shape: str
) -> tuple[int, int]:
    """The trailing sizes of an argument that must have at least two dimensions."""
    return _trailing(owner, name, value, shape, 2)


def _trailing(owner: str, name: str, value: ArrayLike, shape: str, ndim: int):
    found = jnp.shape(value)
    if len(found) < ndim or 0 in found[len(found) - ndim :]:
        raise ValueError(
            f"{owner}: {name} must have shape {shape}, none of these sizes zero; got "
            f"shape {found}."
        )
    return found[len(found) - ndim :]


def broadcast_batch_shapes(
    owner: str,
    shapes: Mapping[str, tuple[int, ...]],
    event_shapes: Mapping[str, tuple[int, ...]],
) -> tuple[int, ...]:
    """Checks the trailing shape of each argument and broadcasts what leads it.

    :param owner: name of the distribution, for the messages.
    :param shapes: shape of each argument.
    :param event_shapes: trailing shape that each argument must have.
    :return: the batch shape.
    """
    batch_shapes = {}
    for name, event_shape in event_shapes.items():
        shape, ndim = shapes[name], len(event_shapes[name])
        if len(shape) < ndim or shape[len(shape) - ndim :] != event_shape:
            expected = ", ".join(map(str, ("...", *event_shape)))
            raise ValueError(
                f"{owner}: {name} must have shape ({expected}), where loc has shape "
                f"{shapes['loc']}; got shape {shape}."
            )
        batch_shapes[name] = shape[: len(shape) - ndim]
    try:
        return jnp.broadcast_shapes(*batch_shapes.values())
    except ValueError as error:
        raise ValueError(
            f"{owner}: the batch shapes of the arguments must broadcast; got "
            f"{batch_shapes}."
        ) from error


def check_values(owner: str, values: Mapping[str, ArrayLike], dim: int) -> bool:
    """Raises where a concrete hyperparameter is outside of its domain.

    :param owner: name of the distribution, for the messages.
    :param values: hyperparameters by name.
    :param dim: the first size of an event; D, of a weight and a covariance matrix.
    :return: whether all of the values were concrete.
    """
    concrete = {k: np.asarray(x) for k, x in values.items() if not_jax_tracer(x)}
    for name, value in concrete.items():
        complaint = _CHECKS[name](value, dim)
        if complaint is not None:
            raise ValueError(f"{owner}: {name} must be {complaint}.")
    return len(concrete) == len(values)


def _finite(value: np.ndarray, dim: int) -> str | None:
    bad = np.sum(~np.isfinite(value))
    return f"finite; got {bad} entries that are NaN or infinite" if bad else None


def _positive(value: np.ndarray, dim: int) -> str | None:
    if np.all((value > 0) & np.isfinite(value)):
        return None
    return f"positive and finite; got {_worst(value)}"


def _above_dim(value: np.ndarray, dim: int) -> str | None:
    if np.all((value > dim - 1) & np.isfinite(value)):
        return None
    return (
        f"finite and greater than D - 1 = {dim - 1}, D = {dim} being the dimension of "
        f"the covariance matrix; got {_worst(value)}"
    )


def _symmetric(value: np.ndarray) -> str | None:
    if (complaint := _finite(value, 0)) is not None:
        return complaint
    value = _inexact(value)
    skew = np.abs(value - np.swapaxes(value, -1, -2))
    std = np.sqrt(np.abs(np.diagonal(value, axis1=-2, axis2=-1)))
    if np.any(skew > 1e-5 * std[..., :, None] * std[..., None, :]):
        return (
            "symmetric and positive definite; got a matrix that differs from its "
            f"transpose by up to {skew.max():.3g}"
        )
    return None


def _positive_definite(value: np.ndarray, dim: int) -> str | None:
    if (complaint := _symmetric(value)) is not None:
        return complaint
    value = _inexact(value)
    try:
        np.linalg.cholesky(value)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(value).min()
        return (
            f"symmetric and positive definite (in {value.dtype}); got a matrix whose "
            f"smallest eigenvalue is {smallest:.3g}"
        )
    return None


def _positive_semidefinite(value: np.ndarray, dim: int) -> str | None:
    if (complaint := _symmetric(value)) is not None:
        return complaint.replace("definite", "semi-definite")
    value = _inexact(value)
    std = np.sqrt(np.abs(np.diagonal(value, axis1=-2, axis2=-1)))
    scale = np.where(std > 0, std, 1.0)
    least = np.linalg.eigvalsh(value / scale[..., :, None] / scale[..., None, :])
    rounding = 10 * dim * np.finfo(value.dtype).eps
    if least.size and least.min() < -rounding * max(np.abs(least).max(), 1.0):
        return (
            "symmetric and positive semi-definite; got a matrix whose smallest "
            f"eigenvalue is {np.linalg.eigvalsh(value).min():.3g}"
        )
    return None


def _lower_cholesky(value: np.ndarray, dim: int) -> str | None:
    expected = "lower triangular with a positive diagonal"
    if (complaint := _finite(value, dim)) is not None:
        return f"{expected} and {complaint}"
    if np.any(np.triu(value, 1)):
        return f"{expected}; got entries other than zero above the diagonal"
    smallest = np.diagonal(value, axis1=-2, axis2=-1).min(initial=np.inf)
    if smallest <= 0:
        return f"{expected}; got {smallest:.3g} on the diagonal"
    return None


def _probabilities(value: np.ndarray, dim: int) -> str | None:
    if (complaint := _finite(value, dim)) is not None:
        return f"probabilities, {complaint}"
    if value.min(initial=0.0) < 0:
        return f"probabilities, zero or more; got {value.min():.6g}"
    sums = value.sum(-1)
    worst = sums.flat[np.argmax(np.abs(sums - 1))] if sums.size else 1.0
    if abs(worst - 1) > 1e-5:
        return f"probabilities that sum to one; got a sum of {worst:.6g}"
    return None


def _inexact(value: np.ndarray) -> np.ndarray:
    """In the precision that JAX will use."""
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    return value.astype(jnp.result_type(float, dtype))


def _worst(value: np.ndarray) -> str:
    finite = np.isfinite(value)
    return f"{value.min():.6g}" if finite.all() else f"{value[~finite][0]}"


_CHECKS = {
    "loc": _finite,
    "initial_loc": _finite,
    "initial_cov": _positive_semidefinite,
    "transition_matrix": _finite,
    "transition_cov": _positive_semidefinite,
    "inputs": _finite,
    "initial_probs": _probabilities,
    "transition_probs": _probabilities,
    "column_precision": _positive_definite,
    "concentration": _positive,
    "df": _above_dim,
    "scale_matrix": _positive_definite,
    "scale_tril": _lower_cholesky,
}
