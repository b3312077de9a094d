# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Arrays of NumPy and of JAX: which of the two a value is of."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["is_array", "numpy_of"]


def is_array(value: Any) -> bool:
    """Whether a value is an array, of NumPy or of JAX."""
    return isinstance(value, jax.Array | np.ndarray)


def numpy_of(value: Any) -> ModuleType:
    """``numpy`` for its arrays, so that what is computed of them is not compiled, and
    ``jax.numpy`` for others."""
    return np if isinstance(value, np.ndarray) else jnp
