# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Functions that are differentiated only if something hangs on what they return.

JAX transposes loops and solvers for cotangents that are all zero, too, and XLA compiles
and runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
import numpy as np

__all__ = ["on_demand"]


def on_demand(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, evaluated again if a derivative is asked for.

    :param function: closes over no arrays that are traced.
    :param args: pytrees of arrays.
    """

    @jax.custom_vjp
    def value(*args: Any) -> Any:
        return function(*args)

    def forward(*args: Any) -> tuple[Any, tuple]:
        known = jax.tree.map(lambda leaf: leaf.value, args)
        return function(*known), known

    def backward(known: tuple, cotangents: Any) -> tuple:
        structure: Any
        leaves, structure = jax.tree.flatten(cotangents)
        if all(isinstance(leaf, SymbolicZero) for leaf in leaves):
            return (None,) * len(known)
        dense = [
            np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf
            for leaf in leaves
        ]
        return jax.vjp(function, *known)[1](structure.unflatten(dense))

    value.defvjp(forward, backward, symbolic_zeros=True)
    return value(*args)
