# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Computing what is known while a program is traced."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
from numpyro.util import not_jax_tracer

__all__ = ["computed_now", "without_scanned"]


def computed_now() -> AbstractContextManager:
    """A context in which what is known is computed at once, under a trace too.

    Outside of all traces it is anyway, and :func:`jax.ensure_compile_time_eval` would
    compile every operation of the functions that are compiled inside by itself.
    """
    if not_jax_tracer(jnp.zeros(())):
        return nullcontext()
    return jax.ensure_compile_time_eval()


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
