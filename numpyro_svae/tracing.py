# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is computed and compiled at once, and what is part of a program being traced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
import os
from typing import Any

import jax
from jax.core import eval_context
from jax.extend.core import get_opaque_trace_state
import jax.numpy as jnp
from numpyro.util import not_jax_tracer

__all__ = ["check_known", "computed_now", "quick_jit", "without_scanned"]

_LEVEL = "xla_backend_optimization_level"


def quick_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """:func:`jax.jit` for programs that run a few times.

    At its highest level of optimisation, XLA for CPUs makes up to fifteen times as much
    machine code of a loop that generates random numbers: such a program takes twice as
    long to compile and no less to run, and others take a sixth longer. The level is
    that below, if the user has chosen none and the program is not a part of another.

    :param function: of pytrees of arrays.
    :param options: those of :func:`jax.jit`.
    """
    plain = jax.jit(function, **options)
    quick = jax.jit(function, compiler_options={_LEVEL: 2}, **options)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (quick if _has_options() else plain)(*args, **kwargs)

    return call


def _has_options() -> bool:
    """Whether nothing is traced, so that JAX takes options, and there are none yet."""
    chosen = _LEVEL in os.environ.get("XLA_FLAGS", "")
    here = get_opaque_trace_state(convention="nnx")
    with eval_context():
        alone = here == get_opaque_trace_state(convention="nnx")
    return alone and not chosen and jax.default_backend() == "cpu"


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
