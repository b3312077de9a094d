# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is read off a program may depend on more than its latent sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.ops.provenance import eval_provenance

from numpyro_svae.program.run.arrays import is_array, jax_array
from numpyro_svae.program.run.sites import Program

__all__ = [
    "NOT_TRACEABLE",
    "at_others",
    "depends",
    "elsewhere",
    "here_and_elsewhere",
    "is_number",
    "others_of",
    "parameters_of",
]

# what a program raises that looks at the values of its arguments
NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def elsewhere(program: Program, read: Callable[[Program], Any]) -> Any:
    """What is read off a program at other arguments and parameters than its own.

    :param program: the program.
    :param read: reads arrays.
    :return: the arrays; those at its own ones if they are computed from none of them.
    """
    return read(at_others(program) if depends(program, read) else program)


def here_and_elsewhere(program: Program, read: Callable[[Program], Any]) -> list[Any]:
    """What is read off a program at its own arguments and parameters, and at others.

    It is compiled once, for both.

    :param program: the program.
    :param read: reads arrays.
    """
    leaves, rebuild = _arrays(program)
    compiled = jax.jit(lambda own: read(rebuild(own)))
    try:
        return [compiled(own) for own in (leaves, others_of(leaves))]
    except NOT_TRACEABLE:
        both = program, at_others(program)
        return [jax.jit(partial(read, own))() for own in both]


def depends(program: Program, read: Callable[[Program], Any]) -> bool:
    """Whether what is read off a program is computed from arguments or parameters."""
    leaves, rebuild = _arrays(program)

    def traced(**own: Array) -> Any:
        return read(rebuild(own))

    try:
        used = eval_provenance(traced, **leaves)
    except NOT_TRACEABLE:
        return bool(leaves)
    return bool(union_of(used))


def union_of(sets: Any) -> frozenset[str]:
    """All names in a tree of sets, as ``eval_provenance`` gives it."""
    leaves = jax.tree.leaves(sets, is_leaf=lambda x: isinstance(x, frozenset))
    return frozenset().union(*leaves)


def at_others(program: Program) -> Program:
    """A program at other arguments and parameters than its own."""
    leaves, rebuild = _arrays(program)
    return rebuild(others_of(leaves))


def parameters_of(
    program: Program,
) -> tuple[dict[str, Any], Callable[[dict], Program]]:
    """The numbers among the parameters, and a program that has others."""
    numbers, rebuild = _split(program.fixed, _is_real)
    return numbers, lambda own: replace(program, fixed=rebuild(own))


def others_of(leaves: dict[str, Any]) -> dict[str, Any]:
    """Other arrays of the same kinds."""
    return {name: _other(leaf) for name, leaf in leaves.items()}


def _arrays(program: Program) -> tuple[dict[str, Any], Callable[[dict], Program]]:
    """The arrays among arguments and parameters, and a program that has others."""
    given = program.args, program.kwargs, program.fixed
    numbers, rebuild = _split(given, is_number)

    def with_others(own: dict[str, Any]) -> Program:
        args, kwargs, fixed = rebuild(own)
        return replace(program, args=args, kwargs=kwargs, fixed=fixed)

    return numbers, with_others


def _split(
    given: Any, wanted: Callable[[Any], bool]
) -> tuple[dict[str, Any], Callable[[dict], Any]]:
    """Some leaves of a tree, and a tree that has others in their places."""
    leaves, tree = jax.tree.flatten(given)
    found = {str(i): leaf for i, leaf in enumerate(leaves) if wanted(leaf)}

    def rebuild(own: dict[str, Any]) -> Any:
        every = [own.get(str(i), leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(tree, every)

    return found, rebuild


def _is_real(leaf: Any) -> bool:
    return is_number(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def is_number(leaf: Any) -> bool:
    """Whether a leaf of arguments is an array, and not one of keys."""
    if not is_array(leaf):
        return False
    return not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _other(leaf: Any) -> Any:
    """Another array of the same kind, in the same range if it is of whole numbers."""
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        drawn = np.random.default_rng(1).uniform(size=leaf.shape).astype(leaf.dtype)
    else:
        own = np.asarray(leaf)
        drawn = ~own if own.dtype == bool else np.max(own, initial=0) - own
    # of NumPy as it was, for programs with functions of NumPy
    return drawn if isinstance(leaf, np.ndarray) else jax_array(drawn)
