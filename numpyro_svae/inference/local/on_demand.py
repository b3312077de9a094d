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

from numpyro_svae.derivatives import define_vjp

__all__ = ["on_demand"]


def on_demand(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, evaluated again if a derivative is asked for.

    :param function: closes over no arrays that are traced.
    :param args: pytrees of arrays.
    """

    given, tree = jax.tree.flatten(args)  # a tree may be another one if made again
    results: list[Any] = []  # the tree of what is returned

    def of_leaves(*leaves: Any) -> list[Any]:
        out = function(*jax.tree.unflatten(tree, leaves))
        results[:] = [jax.tree.structure(out)]
        return jax.tree.leaves(out)

    @jax.custom_vjp
    def value(*leaves: Any) -> Any:
        return of_leaves(*leaves)

    def forward(*leaves: Any) -> tuple[Any, tuple]:
        known = tuple(leaf.value for leaf in leaves)
        return of_leaves(*known), known

    def backward(known: tuple, cotangents: Any) -> tuple:
        structure: Any
        leaves, structure = jax.tree.flatten(cotangents)
        if all(isinstance(leaf, SymbolicZero) for leaf in leaves):
            return (None,) * len(known)
        dense = [
            np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf
            for leaf in leaves
        ]
        return jax.vjp(of_leaves, *known)[1](structure.unflatten(dense))

    define_vjp(value, forward, backward, symbolic_zeros=True)
    leaves = value(*given)
    return jax.tree.unflatten(results[0], leaves)
