# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a program needs the numbers of where JAX traces it: functions of NumPy, and what
its reader looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
import traceback
from typing import Any

import jax
from jax import random
from jax.errors import (
    JAXTypeError,
    NonConcreteBooleanIndexError,
    TracerArrayConversionError,
)
import numpy as np
import numpyro
from numpyro.util import not_jax_tracer

from numpyro_svae.program.read.latents import easy_value
from numpyro_svae.program.run.origins import is_number
from numpyro_svae.program.run.plates import shared_values
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.checks import stand_ins
from numpyro_svae.tracing import computed_now

__all__ = ["numpy_is_named"]

_ANYTHING = "in the place of jax.numpy for what JAX traces, as in the body of a scan"
_ARGUMENT = (
    "in the place of jax.numpy for an argument of the model, which JAX traces in a "
    "function that is compiled, as in np.log(y)"
)
_MEMBERS = (
    "in the place of jax.numpy for the members that a plate with subsample_size draws, "
    "as in array[index] with a NumPy array"
)
_LATENT = (
    "where a latent site is in the place of numbers, as in array[z] with a NumPy array"
)
_OTHERS = tuple(str(Path(str(m.__file__)).parent) for m in (jax, np, numpyro))
_LIBRARIES = (*_OTHERS, str(Path(__file__).parents[2]), "<")


@contextmanager
def numpy_is_named(model: Callable, args: tuple, kwargs: dict) -> Iterator[None]:
    """A context in which a program that gives NumPy what JAX traces is told the cause.

    So is one with arrays that JAX traces and that are no arguments of it: what is
    traced is read with numbers in its place, and there are none for these.

    :param model: the program.
    :param args: its arguments.
    :param kwargs: its keyword arguments.
    :raises TypeError: in the place of what JAX raises.
    """
    try:
        yield
    except NonConcreteBooleanIndexError as error:
        raise TypeError(
            f"The model: found booleans for an index, as in y[seen]{_place(error)}, "
            "which JAX traces in a function that is compiled, where sizes are known "
            "and values are not. Accepted: all of y, and a mask of what counts, "
            "numpyro.sample(name, fn.mask(seen), obs=y); or y[seen] as an argument."
        ) from error
    except JAXTypeError as error:
        with computed_now():
            args, kwargs = stand_ins((args, kwargs))
            program = Program(model, args, kwargs, random.PRNGKey(0))
            _check_closed(program, error)
            if not isinstance(error, TracerArrayConversionError):
                raise
            cause = _cause(program)
        raise TypeError(
            f"The model: found NumPy {cause}{_place(error)}. Accepted: "
            "jnp.asarray(array)[z], and functions of jax.numpy."
        ) from error


def _check_closed(program: Program, error: BaseException) -> None:
    """A program must not have arrays of its own that are traced.

    :param program: with numbers for its arguments.
    :param error: what reading it ended in.
    :raises TypeError: naming the sites.
    """
    try:
        messages = program.trace({}, easy_value)
    except JAXTypeError:
        return
    found = [
        name
        for name, message in messages.items()
        if message["type"] in ("sample", "param")
        and not all(map(not_jax_tracer, jax.tree.leaves(_arrays_of(message))))
    ]
    if found:
        raise TypeError(
            f"Sites {found}: found arrays that are no arguments of the model, and that "
            "a jax.jit, jax.vmap or jax.grad around it traces. Accepted: these arrays "
            "as arguments, model(y, ...), of SVI.init and SVI.update too."
        ) from error


def _arrays_of(message: dict) -> Any:
    return message["fn"] if message["type"] == "sample" else None, message["value"]


def _cause(program: Program) -> str:
    """What a program cannot be run without numbers of."""
    try:
        messages = program.trace({}, easy_value)
    except TracerArrayConversionError:  # JAX traces a part of the program by itself
        return _ANYTHING
    latent = {
        name: message["value"]
        for name, message in messages.items()
        if message["type"] == "sample" and not message["is_observed"]
    }
    shared = shared_values(messages)
    members = {n: x for n, x in shared.items() if messages[n]["type"] == "plate"}
    leaves, tree = jax.tree.flatten((program.args, program.kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if is_number(leaf)}
    numbers = {i: np.asarray(leaf) for i, leaf in arrays.items()}

    def run(arrays: dict[int, Any], members: dict[str, Any]) -> Any:
        own, fixed = numbers | arrays, shared | members
        every = [own.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(tree, every)
        again = replace(program, args=args, kwargs=kwargs, fixed=fixed)
        found = again.trace(latent)
        return [m["value"] for m in found.values() if m["type"] == "sample"]

    traced: tuple[tuple[str, dict[int, Any], dict[str, Any]], ...] = (
        (_ANYTHING, {}, {}),
        (_ARGUMENT, arrays, {}),
        (_MEMBERS, {}, members),
    )
    for cause, *given in traced:
        try:
            jax.eval_shape(run, *given)
        except TracerArrayConversionError:
            return cause
    return _LATENT


def _place(error: BaseException) -> str:
    """The line of the program, for a message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_LIBRARIES)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
