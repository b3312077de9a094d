# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is computed and compiled at once, and what is part of a program being traced."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from jax.errors import JAXTypeError
import jax.numpy as jnp
from numpyro.util import not_jax_tracer

__all__ = ["check_known", "computed_now", "needs_values", "without_scanned"]


def computed_now() -> AbstractContextManager:
    """A context in which what is known is computed at once, under a trace too.

    Outside of all traces it is anyway, and :func:`jax.ensure_compile_time_eval` would
    compile every operation of the functions that are compiled inside by itself.
    """
    if not_jax_tracer(jnp.zeros(())):
        return nullcontext()
    return jax.ensure_compile_time_eval()


def check_known(name: str, values: Any, instead: str) -> None:
    """What a function makes for Python cannot be made of values that are traced.

    :param name: of the function.
    :param values: a pytree of what it is given.
    :param instead: what to write where they are traced.
    :raises TypeError: within a trace.
    """
    if all(map(not_jax_tracer, (jnp.zeros(()), *jax.tree.leaves(values)))):
        return
    raise TypeError(
        f"{name}: found a jax.jit, jax.vmap or jax.grad around it, within which no "
        f"values are known. Accepted: a call outside of these. Within them: {instead}."
    )


def needs_values(error: Exception) -> bool:
    """Whether an error says that a value had to be known of what JAX traces."""
    return isinstance(error.__cause__ or error, JAXTypeError)


def without_scanned(guide_trace: dict, model_trace: dict) -> dict:
    """The trace of a guide without plates that the model has in the bodies of scans, of
    which its trace shows no more than the sites."""
    frames = (m.get("cond_indep_stack", ()) for m in model_trace.values())
    scanned = {frame.name for own in frames for frame in own} - {*model_trace}
    return {
        name: message
        for name, message in guide_trace.items()
        if message["type"] != "plate" or name not in scanned
    }
