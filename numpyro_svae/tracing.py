# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Computing what is known while a program is traced."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
from numpyro.util import not_jax_tracer

__all__ = ["computed_now"]


def computed_now() -> AbstractContextManager:
    """A context in which what is known is computed at once, under a trace too.

    Outside of all traces it is anyway, and :func:`jax.ensure_compile_time_eval` would
    compile every operation of the functions that are compiled inside by itself.
    """
    if not_jax_tracer(jnp.zeros(())):
        return nullcontext()
    return jax.ensure_compile_time_eval()
