# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Functions of a fit on all of its data, as many at a time as its model subsamples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.diagnostics.fit import Fit

__all__ = ["first_batch", "in_batches"]


def in_batches(fit: Fit, function: Callable[[Fit], Any]) -> Any:
    """A function of a fit on all of its data.

    Where the model subsamples one plate, whose members are independent given the global
    sites, these are taken in batches of its own size, so that memory is that of one,
    and the results are joined. Global sites are drawn alike in all batches, and what is
    not by member is that of the first.

    :param fit: the fit.
    :param function: of a fit to a pytree of arrays.
    """
    if fit.batch is None:
        return function(fit)
    members = np.asarray(fit.params[fit.batch.plate])  # slices would be compiled
    size, total = fit.batch.size, fit.batch.total

    def of(members: Any) -> Any:
        return function(fit.of_members(members))

    parts = []
    for start in range(0, total, size):
        own = min(start, total - size)  # the last one has some of the one before
        part = of(jnp.asarray(members[own : own + size]))
        parts.append((part, start - own))
    other = jnp.asarray(members[: size + 1 if size == 1 else size - 1])
    axes = jax.tree.map(_axis, parts[0][0], jax.eval_shape(of, other))

    def joined(axis: int, *leaves: Array) -> Array:
        if axis < 0:
            return leaves[0]
        news = [_from(leaf, new, axis) for leaf, (_, new) in zip(leaves, parts)]
        return jnp.concatenate(news, axis)

    return jax.tree.map(joined, axes, *(part for part, _ in parts))


def first_batch(fit: Fit) -> Fit:
    """The fit with the first of its batches, or as it is."""
    return fit if fit.batch is None else fit.of_members(jnp.arange(fit.batch.size))


def _from(leaf: Array, start: int, axis: int) -> Array:
    return jax.lax.slice_in_dim(leaf, start, None, axis=axis) if start else leaf


def _axis(leaf: Any, moved: Any) -> int:
    """The axis of the members in a result, minus one without: another size moves it."""
    pairs = zip(np.shape(leaf), np.shape(moved), strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), -1)
