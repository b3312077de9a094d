# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The arguments of a model for a window of time, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.forecasting.own_time import OwnTime
from numpyro_svae.forecasting.timeline import Arguments, InTime, blank
from numpyro_svae.notices import Said, notice

__all__ = [
    "Depends",
    "Missing",
    "Window",
    "check_names",
    "check_shape",
    "checked_independent",
]

_SAID = Said()  # an error is raised each time


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

    def with_blanks(self, value: Array) -> tuple[Any, ...]:
        """The leaves with a value in all places of each that was not given.

        :param value: one for each, in their order.
        """
        leaves = list(self.leaves)
        for (index, time), own in zip(self.blanks.items(), value):
            leaves[index] = blank(leaves[index], time, self.horizon + 1, own)
        return tuple(leaves)

    def depends(self, function: Callable[[tuple], Any]) -> Depends:
        """Whether the result of a function changes with what was not given.

        It is run once for each of that, and once for all, and again with ones where
        there were zeros: an action counts for nothing in a step of no time.

        :param function: of the leaves; its result is a pytree of arrays.
        :return: by what was not given.
        """
        count = len(self.blanks)
        values = jnp.concatenate([jnp.zeros((1, count)), jnp.eye(count)])
        found = jax.lax.map(
            lambda value: function(self.with_blanks(value)),
            jnp.concatenate([values, 1 - values]),
        )

        def differs(x: Array) -> Array:
            x = x.reshape(2, count + 1, -1)
            missing = (x != x) & (x[:, :1] != x[:, :1])
            other = (x != x[:, :1]) & ~missing
            return jnp.any(other, (0, 2))

        each = sum(map(differs, jax.tree.leaves(found)), jnp.zeros((), bool))
        return {
            Missing(self.arguments.names[index], self._shape(index, time)): each[i + 1]
            for i, (index, time) in enumerate(self.blanks.items())
        }

    def _shape(self, index: int, time: InTime) -> tuple[int, ...]:
        """What values after the data have to have."""
        shape = list(np.shape(self.leaves[index]))
        shape[int(time.axis or 0)] = self.horizon
        return tuple(shape)


class Missing(NamedTuple):
    """An argument whose values after the data were not given.

    :param name: its name.
    :param shape: that they would have.
    """

    name: str
    shape: tuple[int, ...]

    def refuse(self) -> NoReturn:
        """Say what to give.

        :raises ValueError: always.
        """
        raise ValueError(
            f"Argument {self.name!r}: the model depends on its future values, and "
            f"found none. Accepted: future_inputs={{{self.name!r}: an array of shape "
            f"{self.shape}}}, its values at the steps after the data."
        )


Depends = dict[Missing | OwnTime, Array]
"""What the future must not depend on, and whether it does."""


def checked_independent(values: dict[str, Array], depends: Depends) -> dict[str, Array]:
    """Values that must depend on nothing that is not known of the future.

    Where it is not known yet, within a trace, the compiled program looks.

    :param values: the values, by name.
    :param depends: whether it matters.
    :return: the values.
    :raises ValueError: naming what matters.
    """
    if all(map(not_jax_tracer, depends.values())):
        depends = jax.device_get(depends)
        for argument in depends:
            if depends[argument]:
                argument.refuse()
        return values
    looks = [notice(d, d, partial(_refuse, a), _SAID) for a, d in depends.items()]
    zero = sum(looks, jnp.zeros(()))
    return {name: value + zero.astype(value.dtype) for name, value in values.items()}


def _refuse(what: Missing | OwnTime, *_: Any) -> None:
    what.refuse()


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


def check_shape(name: str, leaf: Any, axis: int, steps: int, found: Array) -> None:
    """Values of an argument at other steps must have its shape but for time."""
    shape = list(leaf.shape)
    shape[axis] = steps
    if found.shape != tuple(shape):
        raise ValueError(
            f"Argument '{name}': found shape {found.shape} for {steps} steps. "
            f"Accepted: {tuple(shape)}."
        )
