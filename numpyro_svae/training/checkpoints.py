# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The state of a run on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np

__all__ = ["load_state", "read_tree", "save_state", "write_tree"]

_PREFIX = "state"  # of the names of the leaves in a file


def save_state(path: str | os.PathLike, state: Any, losses: Any = ()) -> None:
    """Write a pytree of arrays, such as the state of SVI, with the losses so far.

    The file is one of NumPy's, ``.npz``, without pickled objects. It is complete or
    not there at all: a run that is killed while writing leaves the one before.

    :param path: of the file.
    :param state: any pytree of arrays and random keys.
    :param losses: of the steps that led to it.
    """
    write_tree(path, state, losses=np.asarray(losses))


def write_tree(path: str | os.PathLike, tree: Any, **beside: np.ndarray) -> None:
    """Write a pytree of arrays and random keys, and named arrays beside it."""
    entries: dict[str, Any] = dict(beside)
    entries |= {name: _to_numpy(leaf) for name, leaf in _named(tree)}
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, **entries)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def load_state(path: str | os.PathLike, like: Any) -> tuple[Any, np.ndarray]:
    """Read what :func:`save_state` has written.

    :param path: of the file.
    :param like: a pytree of the same structure, shapes and types, for instance
        ``svi.init(key, *args)``; its values do not matter.
    :return: the state, with the same bits, and the losses.
    :raises ValueError: if the file holds anything else, naming the leaf.
    """
    with np.load(path, allow_pickle=False) as file:
        losses = file["losses"]
    return read_tree(path, like), losses


def read_tree(path: str | os.PathLike, like: Any) -> Any:
    """Read a tree that :func:`write_tree` has written.

    :param like: a tree of the same structure, shapes and types; its leaves may be
        abstract.
    :raises ValueError: if the file holds another tree, naming the leaf.
    """
    with np.load(path, allow_pickle=False) as file:
        entries = {name: x for name, x in file.items() if name.startswith(_PREFIX)}
    named = _named(like)
    surplus = sorted(set(entries) - {name for name, _ in named})
    if surplus:
        raise ValueError(
            f"{path}: found {surplus}, which the program has not. Accepted: a file of "
            "the same model, guide and optimiser."
        )
    leaves = [_from_numpy(path, name, entries.get(name), leaf) for name, leaf in named]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree by their places, in its order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(f"{_PREFIX}{jax.tree_util.keystr(place)}", leaf) for place, leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_numpy(path: Any, name: str, value: np.ndarray | None, like: Any) -> Array:
    shape, dtype = _shape_of(like)
    same_size = value is not None and value.itemsize == dtype.itemsize
    if value is not None and same_size and value.dtype.kind == "V":
        value = value.view(dtype)  # NumPy has no name for bfloat16
    if value is None or value.shape != shape or value.dtype != dtype:
        found = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
        raise ValueError(
            f"{path}: at '{name}' found {found}; accepted is {dtype}{list(shape)}."
        )
    if _is_key(like):
        return random.wrap_key_data(jnp.asarray(value), impl=random.key_impl(like))
    return jnp.asarray(value)


def _shape_of(like: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a leaf in a file."""
    data = jax.eval_shape(random.key_data, like) if _is_key(like) else like
    return np.shape(data), np.dtype(jnp.result_type(data))
