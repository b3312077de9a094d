# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Derivative rules of functions of which a batch may share results.

Of a function of ``h`` and ``J`` with the results ``m(h, J)`` and ``P(J)``, a
``jax.vmap`` over ``h`` has one ``P``, whose cotangent is that of the whole batch. Some
releases of JAX (0.10) run the backward rule with it once for each example and add up:
the gradient in ``J`` is too large. Others refuse, unless they are told what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
import inspect
from typing import Any

import jax
from jax import Array
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

__all__ = ["define_vjp", "dense", "is_zero", "values"]

_KNOWN = "generic_batching" in inspect.signature(jax.custom_vjp.defvjp).parameters


def define_vjp(
    function: Any, forward: Callable, backward: Callable, **options: Any
) -> None:
    """``function.defvjp(forward, backward)``, right where a batch shares some results.

    :param function: of :class:`jax.custom_vjp`, with several results.
    :param forward: its forward rule.
    :param backward: its backward rule.
    :param options: those of ``defvjp``.
    """
    if _KNOWN:
        function.defvjp(forward, backward, generic_batching=True, **options)
        return

    primal = function.fun

    def tied(out: Any, args: tuple) -> Any:
        given = [getattr(x, "value", x) for x in jax.tree.leaves(args)]
        leaves, tree = jax.tree.flatten(out)
        arrays = [x for x in given if isinstance(x, Array)]
        both = *map(jnp.asarray, leaves), *arrays
        return jax.tree.unflatten(tree, _tied.bind(*both, count=len(leaves)))

    @wraps(primal)
    def whole(*args: Any) -> Any:
        return tied(primal(*args), args)

    @wraps(forward)
    def together(*args: Any) -> tuple[Any, Any]:
        out, residuals = forward(*args)
        return tied(out, args), residuals

    function.fun = whole
    function.defvjp(together, backward, **options)


def values(given: Any) -> Any:
    """The arrays that a forward rule with ``symbolic_zeros`` is given."""
    return jax.tree.map(
        lambda x: x.value, given, is_leaf=lambda x: isinstance(x, CustomVJPPrimal)
    )


def is_zero(cotangent: Any) -> bool:
    """Whether nothing depends on a result, known while a program is traced."""
    return isinstance(cotangent, SymbolicZero)


def dense(cotangents: Any) -> Any:
    """Cotangents as arrays, where a backward rule with ``symbolic_zeros`` has none."""
    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if is_zero(x) else x,
        cotangents,
        is_leaf=is_zero,
    )


# The first arrays of some, which are in a batch where any of them is: no computation.
_tied = Primitive("tied")
_tied.multiple_results = True
_tied.def_impl(lambda *arrays, count: list(arrays[:count]))
_tied.def_abstract_eval(lambda *arrays, count: list(arrays[:count]))
mlir.register_lowering(_tied, lambda _, *arrays, count: arrays[:count])


def _batch(arrays: Any, axes: Any, *, count: int) -> tuple[list[Array], list[int]]:
    size = next(x.shape[axis] for x, axis in zip(arrays, axes) if axis is not None)
    whole = [
        jnp.broadcast_to(x, (size, *jnp.shape(x)))  # a number has none
        if axis is None
        else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arrays, axes)
    ]
    return _tied.bind(*whole, count=count), [0] * count


def _push(arrays: Any, tangents: Any, *, count: int) -> tuple[list, list]:
    return _tied.bind(*arrays, count=count), list(tangents[:count])


batching.primitive_batchers[_tied] = _batch
ad.primitive_jvps[_tied] = _push
