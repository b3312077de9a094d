# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The arguments of a chain: their checks, their axis of time and their layout."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike

from numpyro_svae.blocks.chain_steps import Dynamics, Gaussian
from numpyro_svae.blocks.layout import to_lanes
from numpyro_svae.potentials import GaussianPotential

__all__ = [
    "batch_of",
    "canonical_arguments",
    "check_potential",
    "check_takes",
    "checked_lengths",
    "lanes_of",
]


def canonical_arguments(
    initial_loc: ArrayLike,
    initial_cov: ArrayLike,
    transition_matrix: ArrayLike,
    transition_cov: ArrayLike,
    inputs: ArrayLike | None,
    num_steps: int | None,
) -> tuple[dict[str, Array], tuple[int, int]]:
    """Arrays by name with their axis of time, and the event shape.

    Arguments are those of ``LinearGaussianChain``. Missing inputs become an array of
    no columns, so that the number of steps can be read from it.
    """
    given = {
        "initial_loc": initial_loc,
        "initial_cov": initial_cov,
        "transition_matrix": transition_matrix,
        "transition_cov": transition_cov,
    }
    if inputs is not None:
        given["inputs"] = inputs
    dtype = jnp.result_type(*given.values(), float)
    with jax.ensure_compile_time_eval():  # constants are checked under jit too
        arguments = {name: jnp.asarray(x, dtype) for name, x in given.items()}
        size = _check_entries(arguments)
        num_steps = _count_steps(arguments, num_steps)
        for name in ("transition_matrix", "transition_cov"):
            if arguments[name].ndim == 2:
                arguments[name] = arguments[name][None]
    arguments.setdefault("inputs", jnp.zeros((num_steps - 1, 0), dtype))
    _check_batch(arguments)
    return arguments, (num_steps, size)


def check_takes(transition: Callable, *args: Array) -> None:
    """A transition must take a state and its inputs, as far as can be seen.

    :raises ValueError: if it is a function of other arguments.
    """
    try:
        taken = signature(transition)
    except ValueError:  # of a function that is not of Python
        return
    try:
        taken.bind(*args)
    except TypeError:
        raise ValueError(
            "transition: found a function of other arguments than a state and its "
            "inputs. Accepted: one of both, as `lambda x, u: ...`, with u of size zero "
            "where there are no inputs."
        ) from None


def checked_lengths(lengths: ArrayLike | None, time_reversed: bool) -> Array | None:
    """Lengths of sequences, for a chain that runs forwards.

    :raises ValueError: if the chain runs backwards.
    """
    if lengths is None:
        return None
    if time_reversed:
        raise ValueError(
            "lengths: found them with time_reversed=True; accepted are chains that run "
            "forwards."
        )
    return jnp.asarray(lengths)


def batch_of(chain: Any) -> tuple[int, ...]:
    """The batch shape of a chain's arguments as they are, under ``vmap`` inner."""
    return jnp.broadcast_shapes(
        jnp.shape(chain.initial_loc)[:-1],
        jnp.shape(chain.initial_cov)[:-2],
        jnp.shape(chain.transition_matrix)[:-3],
        jnp.shape(chain.transition_cov)[:-3],
        jnp.shape(chain.inputs)[:-2],
        () if chain.lengths is None else jnp.shape(chain.lengths),
    )


def lanes_of(chain: Any, batch: tuple[int, ...]) -> tuple[Gaussian, Dynamics]:
    """A chain in the layout of the blocks; inputs become biases."""
    size, columns = chain.initial_loc.shape[-1], chain.inputs.shape[-1]
    loc, cov = chain.initial_loc, chain.initial_cov
    matrix, noise = chain.transition_matrix[..., :size], chain.transition_cov
    bias = jnp.zeros((1, size), loc.dtype)
    if columns:
        weight = chain.transition_matrix[..., size:]
        bias = jnp.matmul(weight, chain.inputs[..., None])[..., 0]
    if chain.lengths is not None:  # past the end, states are standard normal
        exists = jnp.arange(chain.event_shape[0]) < chain.lengths[..., None]
        first, later = exists[..., 0], exists[..., 1:]
        loc = jnp.where(first[..., None], loc, 0.0)
        cov = jnp.where(first[..., None, None], cov, jnp.eye(size))
        matrix = jnp.where(later[..., None, None], matrix, 0.0)
        bias = jnp.where(later[..., None], bias, 0.0)
        noise = jnp.where(later[..., None, None], noise, jnp.eye(size))
    initial = Gaussian(
        to_lanes(loc, 1, batch, time=False), to_lanes(cov, 2, batch, time=False)
    )
    return initial, Dynamics(
        to_lanes(matrix, 2, batch), to_lanes(bias, 1, batch), to_lanes(noise, 2, batch)
    )


def check_potential(potential: GaussianPotential, event_shape: tuple[int, ...]) -> None:
    """Raise an error unless there is a potential for every state of a chain."""
    num_steps, size = event_shape
    found = potential.batch_shape
    if potential.dim != size or not found or found[-1] not in (1, num_steps):
        raise ValueError(
            f"potential: found batch shape {found} over {potential.dim} dimensions; "
            f"accepted is (..., {num_steps}) over {size}, for a chain of event shape "
            f"{event_shape}."
        )


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
    """``T``, from itself or from the axes of time, which must agree.

    One step may stand for all of them; where nothing says how many, it is one.
    """
    if num_steps is not None and (int(num_steps) != num_steps or num_steps < 1):
        _fail("num_steps", num_steps, "an integer of at least 1")
    axes = {"inputs": 2, "transition_matrix": 3, "transition_cov": 3}
    times = {
        name: arguments[name].shape[-axis]
        for name, axis in axes.items()
        if name in arguments and arguments[name].ndim >= axis
    }
    known = {n: k for n, k in times.items() if n == "inputs" or k != 1}
    if num_steps is None:
        if not times:
            _fail("num_steps", "None", "an integer: no argument has an axis of time")
        num_steps = next(iter(known.values()), 1) + 1
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


def _check_batch(arguments: dict[str, Array]) -> None:
    axes = {"initial_loc": 1, "initial_cov": 2, "inputs": 2}
    batches = {n: x.shape[: x.ndim - axes.get(n, 3)] for n, x in arguments.items()}
    try:
        jnp.broadcast_shapes(*batches.values())
    except ValueError:
        shapes = {name: x.shape for name, x in arguments.items()}
        raise ValueError(
            f"the batch axes of the arguments do not broadcast: found {shapes}; before "
            "the vector, the matrix, and for transitions and inputs the axis of time, "
            "accepted are axes of equal size or one."
        ) from None
