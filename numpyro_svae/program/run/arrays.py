# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Arrays of NumPy and of JAX: which of the two a value is of."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["is_array", "jax_array", "numpy_of"]


def is_array(value: Any) -> bool:
    """Whether a value is an array, of NumPy or of JAX."""
    return isinstance(value, jax.Array | np.ndarray)


def jax_array(value: Any) -> jax.Array:
    """A value as an array of JAX.

    Of NumPy's arrays, ``jnp.asarray`` would compile a program for each shape.
    """
    if isinstance(value, np.ndarray | np.generic):
        return jax.device_put(np.asarray(value))
    return jnp.asarray(value)


def numpy_of(value: Any) -> ModuleType:
    """``numpy`` for its arrays, so that what is computed of them is not compiled, and
    ``jax.numpy`` for others."""
    return np if isinstance(value, np.ndarray) else jnp
