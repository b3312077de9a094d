# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Deterministic sites, at values of the latent ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
from numpyro.handlers import block, replay, seed, trace
from numpyro.ops.provenance import eval_provenance

from numpyro_svae.program.run.arrays import is_array
from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.origins import NOT_TRACEABLE, union_of

__all__ = ["deterministic_sites", "is_shape", "of_values", "shapes_of"]


def deterministic_sites(
    model: Callable,
    data: dict[str, Any],
    drawn: dict[str, dict],
    key: Array,
    args: tuple,
    kwargs: dict[str, Any],
) -> dict[str, Array]:
    """Values of the deterministic sites of a run of a model.

    :param model: the model.
    :param data: parameters, and values of sites.
    :param drawn: the trace of a run of a guide.
    :param key: random key, for what is in neither.
    :param args: the arguments of the model.
    :param kwargs: its keyword arguments.
    """

    @jax.jit  # so that nothing else of the model is computed
    def values() -> dict[str, Array]:
        with block():
            run = replay(Fixed(seed(model, key), data=data), drawn)
            messages = trace(run).get_trace(*args, **kwargs)
        kind = "deterministic"
        return {n: m["value"] for n, m in messages.items() if m["type"] == kind}

    return values()


def shapes_of(arguments: Any) -> Any:
    """Arguments of a model, with the shapes of arrays in place of their values."""

    def shape(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    return jax.tree.map(shape, arguments)


def of_values(
    model: Callable, shapes: tuple[tuple, dict[str, Any]]
) -> Callable[[dict[str, Any]], dict[str, Array]]:
    """The deterministic sites of a model that are functions of some sites alone.

    Those that depend on data or on other latent sites are left out, and so are all of a
    model that has to know its data to be run.

    :param model: the model.
    :param shapes: its arguments and keyword arguments, as :func:`shapes_of` has them.
    :return: from values of sites and parameters to those of deterministic sites.
    """
    leaves, tree = jax.tree.flatten(shapes, is_leaf=is_shape)
    known = {str(i): leaf for i, leaf in enumerate(leaves) if not is_shape(leaf)}
    arrays = {str(i): leaf for i, leaf in enumerate(leaves) if is_shape(leaf)}

    def run(data: dict[str, Any], own: dict[str, Array], key: Array) -> dict:
        every = [(known | own)[str(i)] for i in range(len(leaves))]
        return deterministic_sites(
            model, data, {}, key, *jax.tree.unflatten(tree, every)
        )

    def zeros() -> dict[str, Array]:
        return {name: _zeros(shape) for name, shape in arrays.items()}

    @jax.jit  # so that nothing else of the model is computed
    def found(data: dict[str, Any]) -> dict[str, Array]:
        def traced(key: Array, **own: Array) -> dict[str, Array]:
            return run(data, own, key)

        key = random.PRNGKey(0)
        try:
            used = eval_provenance(traced, key=key, **zeros())
        except NOT_TRACEABLE:
            return {}
        values = run(data, zeros(), key)
        return {name: x for name, x in values.items() if not union_of(used[name])}

    return found


def is_shape(leaf: Any) -> bool:
    """Whether a leaf of what :func:`shapes_of` returns stands for an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _zeros(like: jax.ShapeDtypeStruct) -> Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(random.key(0), like.shape)
    return jnp.zeros(like.shape, like.dtype)
