# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observed values as numbers that can be computed with."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["as_numbers"]


def as_numbers(name: str, value: Any, states: bool) -> Any:
    """An observed value as an array whose numbers are wide enough to add up.

    Data are often stored in few bits, as pixels and counts are. The log factorial of a
    hundred in float16 is off by a tenth, and in bfloat16 by one; 300 trials are 44 in
    int8.

    :param name: of the site.
    :param value: its value.
    :param states: whether it is of states, or of paths of them.
    :raises ValueError: naming the site, and what its value is of.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"Site '{name}': found a masked array of NumPy. Accepted: an array, as "
            "y.filled(0), and the mask on the distribution, as "
            "fn.mask(~np.ma.getmaskarray(y))."
        )
    if isinstance(value, list | tuple) or _is_table(value):
        raise ValueError(
            f"Site '{name}': found data in a {type(value).__name__}. Accepted: an "
            "array, as np.asarray(y)."
        )
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return value
    if not getattr(dtype, "isnative", True):
        raise ValueError(
            f"Site '{name}': found data of dtype {dtype.str}, whose bytes are in an "
            "order that JAX does not take. Accepted: "
            "y.astype(y.dtype.newbyteorder('='))."
        )
    if jnp.issubdtype(dtype, jnp.floating) and not states:
        return value.astype(jnp.float32) if jnp.finfo(dtype).bits < 32 else value
    if jnp.issubdtype(dtype, jnp.integer):
        return value.astype(jnp.int32) if jnp.iinfo(dtype).bits < 32 else value
    if states:
        raise ValueError(
            f"Site '{name}': found states of dtype {dtype}. Accepted: integers, as "
            "z.astype(int); where they are masked, any integer."
        )
    if getattr(dtype, "kind", "f") in "OSUMmcV":
        raise ValueError(
            f"Site '{name}': found data of dtype {dtype}. Accepted: real numbers, as "
            "np.asarray(y, float); of words, their labels, as "
            "np.unique(y, return_inverse=True)[1]."
        )
    return value


def _is_table(value: Any) -> bool:
    """Whether a value is an array of another library, as of pandas, xarray or torch."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return False
    return hasattr(value, "__array__") and not hasattr(value, "__jax_array__")
