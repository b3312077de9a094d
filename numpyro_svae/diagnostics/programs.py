# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Functions of a fit: compiled once and kept with its guide, and batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.diagnostics.fit import Fit
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.shared_programs import Leaf, quick_jit
from numpyro_svae.tracing import computed_now, needs_values

__all__ = ["compiled", "first_batch", "in_batches", "inferred", "kept"]


def compiled(
    function: Callable[..., Any], fit: Fit, *static: Hashable
) -> Callable[..., Any]:
    """A function of a fit as one compiled program, which the guide keeps.

    Parameters and data are its arguments: those of another fit of the same model, and
    other data of the same shapes, compile nothing. A model that has to know the values
    of its arguments while it is read is compiled for them every time.

    :param function: of the fit, further arrays and then of what is static.
    :param fit: the fit.
    :param static: what the program is made for.
    :return: a function of the further arrays.
    """
    model, guide, batch = fit.model, fit.guide, fit.batch

    def run(params: dict, args: tuple, kwargs: dict, *given: Any) -> Any:
        own = Fit(model, guide, params, args, kwargs, batch)
        return function(own, *given, *static)

    program = kept(fit, (function, *static), lambda: quick_jit(run))

    def call(*given: Any) -> Any:
        try:
            return program(fit.params, fit.args, fit.kwargs, *given)
        except TypeError as error:
            if not needs_values(error):
                raise
            return quick_jit(lambda given: function(fit, *given, *static))(given)

    return call


def inferred(fit: Fit) -> LocalPosterior:
    """Posteriors of the local sites, by one program for all that begins with them.

    :param fit: the fit.
    """
    found: LocalPosterior = compiled(Fit.infer, fit)()
    return found


def kept(
    fit: Fit, what: Hashable, make: Callable[[], Any], shapes: bool = False
) -> Any:
    """What a guide keeps for all fits of one model with arguments of one structure.

    :param fit: one of them.
    :param what: says what it is.
    :param make: makes it, from no values of parameters and data.
    :param shapes: whether it is made for arrays of these shapes alone.
    """
    leaves, tree = _leaves(fit)
    key = what, fit.model, fit.batch, tree, tuple(Leaf(leaf, shapes) for leaf in leaves)
    return fit.guide.programs.get_or(key, make)


def _leaves(fit: Fit) -> tuple[list[Any], Any]:
    return jax.tree.flatten((fit.params, fit.args, fit.kwargs))


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
    if fit.batch is None:
        return fit
    with computed_now():
        return fit.of_members(jnp.arange(fit.batch.size))


def _from(leaf: Array, start: int, axis: int) -> Array:
    return jax.lax.slice_in_dim(leaf, start, None, axis=axis) if start else leaf


def _axis(leaf: Any, moved: Any) -> int:
    """The axis of the members in a result, minus one without: another size moves it."""
    pairs = zip(np.shape(leaf), np.shape(moved), strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), -1)
