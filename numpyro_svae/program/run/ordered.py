# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Pytrees with distributions, whose arrays come in the order of their names.

NumPyro's order is that of a set of strings, which is another one in each process: JAX
would find nothing of one process in its cache on disk in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
from numpyro.distributions import Distribution

__all__ = ["as_given", "in_order", "register_in_order"]


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class _InOrder:
    """A distribution that is flattened by name."""

    fn: Distribution

    def tree_flatten(self) -> tuple[tuple, tuple]:
        leaves, structure = jax.tree.flatten(self.fn)
        names = jax.tree.leaves(_named(self.fn, ""))
        if len(set(names)) != len(leaves) or not all(isinstance(n, str) for n in names):
            names = list(range(len(leaves)))  # of a class that flattens in its own way
        order = tuple(sorted(range(len(leaves)), key=names.__getitem__))
        return tuple(leaves[i] for i in order), (structure, order)

    @classmethod
    def tree_unflatten(cls, known: tuple, leaves: Sequence[Any]) -> _InOrder:
        structure, order = known
        placed = dict(zip(order, leaves, strict=True))
        return cls(
            jax.tree.unflatten(structure, [placed[i] for i in range(len(order))])
        )


def in_order(tree: Any) -> Any:
    """A pytree with nodes that are flattened by name in place of distributions.

    A function that is compiled returns it, and :func:`as_given` undoes it.
    """

    def mark(node: Any) -> Any:
        return _InOrder(node) if _is_distribution(node) else node

    return jax.tree.map(mark, tree, is_leaf=_is_distribution)


def as_given(tree: Any) -> Any:
    """The pytree that :func:`in_order` was given."""

    def marked(node: Any) -> bool:
        return isinstance(node, _InOrder)

    return jax.tree.map(lambda n: n.fn if marked(n) else n, tree, is_leaf=marked)


def register_in_order(cls: type, meta_fields: Sequence[str] = ()) -> type:
    """Make a dataclass a pytree, in which distributions are flattened by name.

    :param cls: the dataclass.
    :param meta_fields: names of its fields that hold neither arrays nor distributions.
    """
    names = [field.name for field in fields(cls) if field.name not in meta_fields]

    def flatten(node: Any) -> tuple[tuple, tuple]:
        kept = tuple(getattr(node, name) for name in meta_fields)
        return tuple(in_order(getattr(node, name)) for name in names), kept

    def unflatten(kept: tuple, values: Sequence[Any]) -> Any:
        given = dict(zip(names, map(as_given, values)))
        return cls(**dict(zip(meta_fields, kept)), **given)

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    return cls


def _is_distribution(node: Any) -> bool:
    return isinstance(node, Distribution)


def _named(fn: Distribution, prefix: str) -> Distribution:
    """The same distribution with the names of its fields in place of their arrays."""
    named: Any = object.__new__(type(fn))
    vars(named).update(vars(fn))
    for name in type(fn).gather_pytree_data_fields():
        if name not in vars(fn):
            continue
        value, path = vars(fn)[name], f"{prefix}.{name}"
        if isinstance(value, Distribution):
            vars(named)[name] = _named(value, path)
        elif not isinstance(value, bool):
            paths = jax.tree_util.tree_map_with_path(_path_after(path), value)
            vars(named)[name] = paths
    return named


def _path_after(prefix: str) -> Any:
    return lambda path, _: prefix + jax.tree_util.keystr(path)
