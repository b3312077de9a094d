# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The operations of a function that its results need, and their text without shapes.

Two calls of a model that have the same text are wired alike, which is known without
running either.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import count
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
import jax.numpy as jnp
import numpy as np

__all__ = ["named", "text_of", "without_rest"]

# Parameters of primitives that say how much there is, or where it is kept.
_EXTENTS = (
    *("shape", "sizes", "new_sizes", "slice_sizes", "limit_indices", "length"),
    *("padding_config", "dimensions", "broadcast_dimensions"),
    *("sharding", "out_sharding", "name"),
)


def without_rest(fn: Callable, *like: Any) -> Callable:
    """A function without the operations that its results do not need.

    All that the body of a loop reads is taken for something that its results depend on,
    although sites of a step may depend on what the carry does not.

    :param fn: the function.
    :param like: arguments of the shapes of those that it will have.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*like)
    run, tree = jaxpr_as_fun(_needed(closed)), jax.tree.structure(shape)

    def shorter(*args: Any) -> Any:
        return jax.tree.unflatten(tree, run(*jax.tree.leaves(args)))

    return shorter


def _needed(closed: ClosedJaxpr) -> ClosedJaxpr:
    jaxpr: Jaxpr = closed.jaxpr
    needed, kept = set(_variables(jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or needed.intersection(eqn.outvars):
            kept.append(eqn)
            needed.update(_variables(eqn.invars))
    known = {v: x for v, x in zip(jaxpr.constvars, closed.consts) if v in needed}
    least = jaxpr.replace(constvars=[*known], eqns=kept[::-1])
    return ClosedJaxpr(least, [*known.values()])


def _variables(atoms: Iterable[Any]) -> Iterator[Any]:
    return (atom for atom in atoms if not isinstance(atom, Literal))


def named(value: Any, name: str) -> Any:
    """A value that the text tells from others, as zeros in the place of a site."""
    from jax.ad_checkpoint import checkpoint_name  # ``import jax`` does without

    return checkpoint_name(jnp.asarray(value), name)


def text_of(function: Callable[..., Any], *args: Any) -> Hashable:
    """The operations that a function needs, what each is done to, and its constants.

    :param function: of pytrees of arrays.
    :param args: arrays, or what says their shapes and types.
    """
    jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*args)
    return str(jax.tree.structure(out)), tuple(_lines(_needed(jaxpr)))


def _lines(closed: ClosedJaxpr) -> Iterator[Hashable]:
    numbers = count()
    constants = zip(closed.jaxpr.constvars, closed.consts)
    known: dict[Any, Hashable] = {var: _constant(value) for var, value in constants}

    def seen(var: Any) -> Hashable:
        if isinstance(var, Literal):
            return _constant(var.val)
        if var not in known:  # an argument: which one it is makes no difference
            known[var] = next(numbers)
        return known[var]

    for equation in closed.jaxpr.eqns:
        given = tuple(map(seen, equation.invars))
        known |= {var: next(numbers) for var in equation.outvars}
        name = equation.primitive.name
        kept = equation.params.items() if name == "name" else _kept(equation.params)
        yield name, given, tuple((key, _option(option)) for key, option in kept)
    yield tuple(map(seen, closed.jaxpr.outvars))


def _kept(params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, params[key]) for key in sorted(params) if key not in _EXTENTS)


def _option(option: Any) -> Hashable:
    """A parameter of a primitive; of what has no value, its class."""
    if isinstance(option, ClosedJaxpr):
        return tuple(_lines(option))
    if isinstance(option, Jaxpr):
        return tuple(_lines(ClosedJaxpr(option, ())))
    if isinstance(option, tuple | list):
        return tuple(map(_option, option))
    if isinstance(option, bool | int | float | str | np.dtype | None):
        return str(option)
    return type(option).__name__


def _constant(value: Any) -> Hashable:
    """A constant by what it is, without axes along which it is the same."""
    if isinstance(value, jax.core.Tracer):
        return type(value).__name__
    if not hasattr(value, "dtype"):  # a number of Python
        return type(value).__name__, value
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return str(value.dtype)
    found = np.asarray(value)
    if found.size and np.all(found == found.flat[0]):
        return str(found.dtype), found.flat[0].item()
    return str(found.dtype), found.tobytes()
