# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The arguments of a model for a window of time, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import Array
import numpy as np

from numpyro_svae.forecasting.timeline import Arguments, InTime, blank

__all__ = ["Window", "check_names", "check_shape"]


class Window(NamedTuple):
    """Arguments of a model for the last step of the data and those after.

    :param arguments: the arguments for the data.
    :param leaves: those for the window.
    :param blanks: which of them were not given, with their time.
    :param horizon: number of steps after the data.
    """

    arguments: Arguments
    leaves: tuple[Any, ...]
    blanks: dict[int, InTime]
    horizon: int

    def with_blanks(self, given: list[Array]) -> tuple[Any, ...]:
        """The leaves with other values in the place of what was not given."""
        other = dict(zip(self.blanks, given))
        return tuple(other.get(i, leaf) for i, leaf in enumerate(self.leaves))

    def run(self, function: Callable[[list[Array]], Any]) -> Any:
        """Apply a function of what was not given, on which it must not depend.

        :raises ValueError: naming the argument that it depends on.
        """
        given = [self.leaves[i] for i in self.blanks]
        found = function(given)
        if self.depends(function, found, *self.blanks):
            each = (i for i in self.blanks if self.depends(function, found, i))
            self._fail(next(each))
        return found

    def depends(
        self, function: Callable[[list[Array]], Any], found: Any, *changed: int
    ) -> bool:
        """Whether the result of a function changes with some that were not given."""
        other = [
            blank(self.leaves[i], time, self.horizon + 1, 0)
            if i in changed
            else self.leaves[i]
            for i, time in self.blanks.items()
        ]
        same = jax.tree.map(_equal, function(other), found)
        return not all(jax.tree.leaves(same))

    def _fail(self, index: int) -> None:
        name = self.arguments.names[index]
        shape = list(np.shape(self.leaves[index]))
        shape[int(self.blanks[index].axis or 0)] = self.horizon
        raise ValueError(
            f"Argument '{name}': the model depends on its future values, and found "
            f"none. Accepted: future_inputs={{'{name}': an array of shape "
            f"{tuple(shape)}}}, its values at the steps after the data."
        )


def _equal(found: Array, expected: Array) -> bool:
    return np.array_equal(found, expected, equal_nan=True)


def check_names(
    arguments: Arguments, times: tuple[InTime | None, ...], given: Mapping[str, Any]
) -> None:
    """Values over time must be for arguments that have time."""
    accepted = {
        name
        for name, time in zip(arguments.names, times)
        if time is not None and time.axis is not None
    }
    unknown = sorted(set(given) - accepted)
    if unknown:
        raise ValueError(
            f"Arguments {unknown}: found values for more steps, and no axis of time in "
            f"what the model was given. Accepted: some of {sorted(accepted)}."
        )


def check_shape(name: str, leaf: Array, axis: int, steps: int, found: Array) -> None:
    """Values of an argument at other steps must have its shape but for time."""
    shape = list(leaf.shape)
    shape[axis] = steps
    if found.shape != tuple(shape):
        raise ValueError(
            f"Argument '{name}': found shape {found.shape} for {steps} steps. "
            f"Accepted: {tuple(shape)}."
        )
