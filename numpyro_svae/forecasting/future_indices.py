# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds what comes after the data and picks entries that a latent site has not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax import random
from jax.errors import JAXTypeError
import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.diagnostics.fit import Fit
from numpyro_svae.forecasting.timeline import Arguments
from numpyro_svae.program.run.indices import check_indices

__all__ = ["check_future_indices"]


def check_future_indices(fit: Fit, future: Mapping[str, Any]) -> None:
    """Whole numbers among future values must be in range where they pick entries.

    The model is looked at as with its data, in whose place they stand, as many of them
    at a time as there is room for.

    :param fit: a fitted guide with its model and the data.
    :param future: values of arguments at the steps after the data, by name.
    :raises ValueError: naming the site, the index and the range.
    """
    whole = {
        name: np.asarray(value)
        for name, value in future.items()
        if not_jax_tracer(value) and np.issubdtype(np.asarray(value).dtype, np.integer)
    }
    if not whole:
        return
    messages: dict[str, dict] = {}

    def run() -> None:
        messages.update(fit.trace(fit.model, random.PRNGKey(0), {}))

    try:
        jax.eval_shape(run)
    except JAXTypeError:  # the model has to know values of its arguments
        run()
    for args, kwargs in _in_place(fit, whole):
        try:
            check_indices(fit.model, fit.params, args, kwargs, messages)
        except ValueError as error:
            raise ValueError(f"future_inputs: {error}") from None


def _in_place(
    fit: Fit, future: Mapping[str, np.ndarray]
) -> Iterator[tuple[tuple, dict]]:
    """Arguments for the data, with future values in the place of some of theirs."""
    arguments = Arguments.of(fit.model, fit.args, fit.kwargs)
    axes = {}
    for i, (name, leaf) in enumerate(zip(arguments.names, arguments.leaves)):
        value, shape = future.get(name), np.shape(leaf)
        if value is not None and value.ndim == len(shape) > 0:
            other = [a for a in range(value.ndim) if value.shape[a] != shape[a]]
            axes[i] = other[0] if other else 0
            if len(other) > 1 or not value.size:
                return  # it is refused by its shape
    rooms = [np.shape(arguments.leaves[i])[axis] for i, axis in axes.items()]
    steps = [future[arguments.names[i]].shape[axis] for i, axis in axes.items()]
    for turn in range(max((-(-n // room) for n, room in zip(steps, rooms)), default=0)):
        leaves = list(arguments.leaves)
        for (i, axis), room, n in zip(axes.items(), rooms, steps):
            some = np.minimum(turn * room + np.arange(room), n - 1)
            leaves[i] = np.take(future[arguments.names[i]], some, axis)
        yield arguments.join(leaves)
