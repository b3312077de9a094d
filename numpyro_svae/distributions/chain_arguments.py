# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The arguments of a chain, checked and given their axis of time."""

from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["canonical_arguments"]


def canonical_arguments(
    initial_loc: ArrayLike,
    initial_cov: ArrayLike,
    transition_matrix: ArrayLike,
    transition_cov: ArrayLike,
    inputs: ArrayLike | None,
    num_steps: int | None,
) -> tuple[dict[str, Array], tuple[int, ...], tuple[int, int]]:
    """Arrays by name with their axis of time, the batch shape and the event shape.

    Arguments are those of ``LinearGaussianChain``. Missing inputs become an array of
    no columns, so that the number of steps can be read from it.
    """
    arguments = {
        "initial_loc": initial_loc,
        "initial_cov": initial_cov,
        "transition_matrix": transition_matrix,
        "transition_cov": transition_cov,
    }
    if inputs is not None:
        arguments["inputs"] = inputs
    dtype = jnp.result_type(*arguments.values(), float)
    arguments = {name: jnp.asarray(x, dtype) for name, x in arguments.items()}
    size = _check_entries(arguments)
    for name in ("transition_matrix", "transition_cov"):
        if arguments[name].ndim == 2:
            arguments[name] = arguments[name][None]
    num_steps = _count_steps(arguments, num_steps)
    arguments.setdefault("inputs", jnp.zeros((num_steps - 1, 0), dtype))
    return arguments, _batch_shape(arguments), (num_steps, size)


def _fail(name: str, found: object, accepted: str) -> None:
    raise ValueError(f"{name}: found {found}; accepted is {accepted}.")


def _check_entries(arguments: dict[str, Array]) -> int:
    """Check the axes of the matrix entries, and return ``D``."""
    shapes = {name: x.shape for name, x in arguments.items()}
    loc = shapes["initial_loc"]
    if not loc or loc[-1] == 0:
        _fail("initial_loc", f"shape {loc}", "(..., D) with D at least 1")
    size = loc[-1]
    columns = size
    if "inputs" in shapes:
        if len(shapes["inputs"]) < 2:
            _fail("inputs", f"shape {shapes['inputs']}", "(..., T - 1, A)")
        columns += shapes["inputs"][-1]
    square, wide = f"({size}, {size})", f"({size}, {columns})"
    expected = {
        "initial_cov": ((size, size), f"(..., {size}, {size})"),
        "transition_matrix": (
            (size, columns),
            f"{wide} or (..., T - 1 or 1, {size}, {columns}): D = {size} state and "
            f"{columns - size} input columns",
        ),
        "transition_cov": (
            (size, size),
            f"{square} or (..., T - 1 or 1, {size}, {size})",
        ),
    }
    for name, (entries, accepted) in expected.items():
        if shapes[name][-2:] != entries:
            _fail(name, f"shape {shapes[name]}", accepted)
    return size


def _count_steps(arguments: dict[str, Array], num_steps: int | None) -> int:
    """``T``, from itself or from the axes of time, which must agree."""
    if num_steps is not None and (int(num_steps) != num_steps or num_steps < 1):
        _fail("num_steps", num_steps, "an integer of at least 1")
    times = {
        name: arguments[name].shape[-2 if name == "inputs" else -3]
        for name in ("inputs", "transition_matrix", "transition_cov")
        if name in arguments
    }
    known = {n: k for n, k in times.items() if n == "inputs" or k != 1}
    if num_steps is None:
        if not known:
            _fail("num_steps", "None", "an integer: no argument has an axis of time")
        num_steps = next(iter(known.values())) + 1
    for name, found in known.items():
        if found != num_steps - 1:
            shape = arguments[name].shape
            one = "" if name == "inputs" else " or 1"
            _fail(
                name,
                f"{found} steps in shape {shape}",
                f"{num_steps - 1}{one} for a chain of {num_steps} states",
            )
    return int(num_steps)


def _batch_shape(arguments: dict[str, Array]) -> tuple[int, ...]:
    axes = {"initial_loc": 1, "initial_cov": 2, "inputs": 2}
    batches = {n: x.shape[: x.ndim - axes.get(n, 3)] for n, x in arguments.items()}
    try:
        return jnp.broadcast_shapes(*batches.values())
    except ValueError:
        shapes = {name: x.shape for name, x in arguments.items()}
        raise ValueError(
            f"the batch axes of the arguments do not broadcast: found {shapes}; before "
            "the vector, the matrix, and for transitions and inputs the axis of time, "
            "accepted are axes of equal size or one."
        ) from None
