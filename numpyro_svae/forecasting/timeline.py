# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which arguments and sites of a model have an axis of time, found by trying.

The model is traced (nothing is computed) with its arguments made a step longer in the
axes that could be time, until its chains are a step longer and all that is not about
time has kept its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
import inspect
from itertools import islice, product
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

__all__ = ["Arguments", "InTime", "by_leaf", "find_times"]

_TRIES = 256

Shapes = dict[str, tuple[int, ...]]


class InTime(NamedTuple):
    """Where time is in an array, or a number of steps.

    :param axis: the axis of time; None for a whole number.
    :param lag: how many entries it has less than there are steps: 0 or 1.
    """

    axis: int | None
    lag: int


@dataclass(frozen=True)
class Arguments:
    """The arguments of a model, taken apart.

    :param leaves: arrays, numbers and whatever else there is.
    :param names: of the arguments that they are from, as :func:`by_leaf` has them.
    :param tree: their structure.
    """

    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    tree: Any

    @classmethod
    def of(cls, model: Callable, args: tuple, kwargs: dict[str, Any]) -> Arguments:
        """Take arguments apart, and name them as the model does."""
        parameters = list(inspect.signature(model).parameters)
        paths, tree = jax.tree.flatten_with_path((args, kwargs))
        names = []
        for (part, at, *within), _ in paths:
            keyword = bool(part.idx)
            last = len(parameters) - 1
            name = at.key if keyword else parameters[min(at.idx, last)]
            names.append(name + jax.tree_util.keystr(tuple(within)))
        return cls(tuple(leaf for _, leaf in paths), tuple(names), tree)

    def join(self, leaves: list[Any] | tuple[Any, ...]) -> tuple[tuple, dict]:
        """Positional and keyword arguments with other leaves."""
        return jax.tree.unflatten(self.tree, leaves)


def by_leaf(values: Mapping[str, Any]) -> dict[str, Array]:
    """Values of arguments, taken apart where they are nested: those of one leaf have
    the name of the argument, and where the leaf is in it, as in ``inputs['speed']``.

    :param values: by argument; what is None has no value, and lists of numbers are
        arrays.
    """
    found = jax.tree.leaves_with_path(dict(values), is_leaf=_is_of_numbers)
    return {
        at.key + jax.tree_util.keystr(tuple(within)): jnp.asarray(leaf)
        for (at, *within), leaf in found
    }


def _is_of_numbers(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    listed = isinstance(value, list | tuple) and bool(leaves)
    return listed and not any(isinstance(x, Array | np.ndarray) for x in leaves)


def find_times(
    shapes_of: Callable[[tuple], Shapes],
    arguments: Arguments,
    num_steps: int,
    rank: int,
) -> tuple[tuple[InTime | None, ...], dict[str, InTime]]:
    """Where time is in the arguments and in the sites of a model.

    :param shapes_of: maps leaves of the arguments to the shapes of all sites; it raises
        an error if they do not fit each other.
    :param arguments: the arguments.
    :param num_steps: number of steps that they are for.
    :param rank: of the batch of the chains, the first axis to try.
    :return: by leaf, None for one without time; and by site, for those with time.
    :raises ValueError: if no choice of axes makes the model longer.
    """
    shapes = shapes_of(arguments.leaves)
    choices = [list(_choices(leaf, num_steps, rank)) for leaf in arguments.leaves]
    for times in islice(product(*choices), _TRIES):
        leaves = tuple(
            leaf if time is None else blank(leaf, time, num_steps + 1)
            for leaf, time in zip(arguments.leaves, times)
        )
        try:
            longer = shapes_of(leaves)
        except (ValueError, TypeError, IndexError):
            continue
        sites = _compare(shapes, longer, num_steps)
        if sites:
            return times, sites
    found = {n: np.shape(x) for n, x in zip(arguments.names, arguments.leaves)}
    raise ValueError(
        f"The arguments of the model: found shapes {found}, with no axes that make its "
        f"chains of {num_steps} steps a step longer. Accepted: a model whose number of "
        "steps is that of an axis of its arguments, or a whole number among them."
    )


def blank(leaf: Any, time: InTime, num_steps: int, value: Any = 1) -> Any:
    """An argument for another number of steps that says nothing but its shape."""
    if time.axis is None:
        return num_steps - time.lag
    shape = list(leaf.shape)
    shape[time.axis] = num_steps - time.lag
    return jnp.full(shape, value, jax.dtypes.canonicalize_dtype(leaf.dtype))


def at_last(x: Array, axis: int, lengths: Array | None) -> Array:
    """Entries at the last step, of each sequence if they have lengths."""
    if lengths is None or jnp.ndim(lengths) != axis:
        return jnp.take(x, -1, axis)
    index = jnp.reshape(lengths - 1, lengths.shape + (1,) * (x.ndim - axis))
    return jnp.take_along_axis(x, index, axis).squeeze(axis)


def _choices(leaf: Any, num_steps: int, rank: int) -> Iterator[InTime | None]:
    """Where time could be in an argument, the likeliest first."""
    sizes: dict[int | None, int] = {}
    if isinstance(leaf, jax.Array | np.ndarray):
        sizes = dict(enumerate(np.shape(leaf)))
    elif isinstance(leaf, int) and not isinstance(leaf, bool):
        sizes = {None: leaf}
    lags = {axis: num_steps - size for axis, size in sizes.items()}
    found = [InTime(axis, lag) for axis, lag in lags.items() if lag in (0, 1)]
    yield from sorted(found, key=lambda time: (time.axis != rank, time.lag))
    yield None


def _compare(
    shapes: Shapes, longer: Shapes, num_steps: int
) -> dict[str, InTime] | None:
    """Time in the sites, if they are longer in one axis or not at all."""
    sites = {}
    for name, shape in shapes.items():
        other = longer.get(name, ())
        if len(other) != len(shape):
            return None
        changed = [i for i, (m, n) in enumerate(zip(shape, other)) if m != n]
        if not changed:
            continue
        (axis, *more) = changed
        lag = num_steps - shape[axis]
        if more or other[axis] != shape[axis] + 1 or lag not in (0, 1):
            return None
        sites[name] = InTime(axis, lag)
    return sites
