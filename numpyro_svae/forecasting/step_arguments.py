# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The arguments of a model at one step of its sequences, and for windows of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.forecasting.timeline import Arguments, InTime, blank
from numpyro_svae.forecasting.window import check_names, check_shape

__all__ = ["StepArguments"]


@dataclass(frozen=True, eq=False)
class StepArguments:
    """What a filter has to know of the arguments of a model.

    :param arguments: of the model; arrays have only their shapes.
    :param times: where time is in the arguments, and in the sites.
    :param needed: arguments that the states depend on.
    :param data: the other ones with time.
    """

    arguments: Arguments
    times: tuple[tuple[InTime | None, ...], dict[str, InTime]]
    needed: frozenset[str]
    data: frozenset[str]

    @property
    def timed(self) -> set[str]:
        """The arguments that are arrays over time."""
        return {name for _, name, _, _ in self._over_time()}

    def width(self, name: str) -> int:
        """How many numbers an argument has at each step of a sequence.

        :raises ValueError: if it is no array ``(N, time, A)`` over time.
        """
        arguments = self.arguments
        for leaf, own, time in zip(arguments.leaves, arguments.names, self.times[0]):
            if (
                own == name
                and time is not None
                and time.axis in (0, 1)
                and leaf.ndim == 3
            ):
                return leaf.shape[-1]
        raise ValueError(
            f"Argument '{name}': found no array over time. Accepted: one of shape (N, "
            "T or T - 1, A), with A numbers at each step."
        )

    def step_shape(self, name: str) -> tuple[int, ...]:
        """The shape of an argument over time at one step, that of sequences in front.

        :param name: of one of those that are arrays over time.
        """
        leaf, time = next((x, t) for _, own, x, t in self._over_time() if own == name)
        shape, axis = tuple(leaf.shape), int(time.axis or 0)
        return shape[:axis] + shape[axis + 1 :]

    def fixed(
        self, leaves: Sequence[Any], says_lengths: Mapping[int, Any]
    ) -> dict[int, Array]:
        """The arrays among arguments that have no time, by their place.

        :param leaves: of the arguments, with known values.
        :param says_lengths: whether they are the lengths of the sequences, where they
            may be; a window has two steps.
        """
        found = {}
        for i, (leaf, time) in enumerate(zip(leaves, self.times[0])):
            if time is None and isinstance(leaf, Array | np.ndarray):
                short = says_lengths.get(i, False)
                found[i] = jnp.full_like(leaf, 2) if short else jnp.asarray(leaf)
        return found

    def _over_time(self) -> list[tuple[int, str, Any, InTime]]:
        """Place, name, shape and time of the arguments that are arrays over time."""
        return [
            (i, name, leaf, time)
            for i, (name, leaf, time) in enumerate(
                zip(self.arguments.names, self.arguments.leaves, self.times[0])
            )
            if time is not None and time.axis is not None
        ]

    def first_of(self, data: dict[str, Any]) -> dict[str, Array]:
        """What arguments say of the first step, as :meth:`FilterState.begin` has it."""
        over = {name: time for _, name, _, time in self._over_time()}
        found = {}
        for name in self.arguments.names:
            time, value = over.get(name), data.get(name)
            if value is not None and not (time and time.lag):
                value = jnp.asarray(value)
                found[name] = jnp.take(value, 0, int(time.axis or 0)) if time else value
        return found

    def last_of(self, data: dict[str, Any]) -> dict[str, Array]:
        """What they say of the last step, as :meth:`FilterState.update` has it."""
        return {
            name: jnp.take(jnp.asarray(data[name]), -1, int(time.axis or 0))
            for _, name, _, time in self._over_time()
            if data.get(name) is not None
        }

    def first_window(
        self, fixed: dict[int, Array], first: dict[str, Array]
    ) -> tuple[tuple[tuple, dict], dict[int, Array]]:
        """Arguments for two steps of which the second is not known, and those of the
        first that the next step needs."""
        over = self._over_time()
        last = {i: first[n].astype(x.dtype) for i, n, x, t in over if not t.lag}
        later = {
            n: jnp.take(blank(x, t, 2), 0, int(t.axis or 0)) for _, n, x, t in over
        }
        arguments, _ = self.window(last, fixed, later)
        return arguments, last

    def check_first(self, first: dict[str, Any]) -> None:
        """Values for the first step must be complete and fit the arguments."""
        over = self._over_time()
        here = {name: (leaf, time) for _, name, leaf, time in over if not time.lag}
        still = set(self.arguments.names) - {name for _, name, _, _ in over}
        unknown = sorted(set(first) - set(here) - still)
        missing = sorted(set(here) - set(first))
        if unknown or missing:
            raise ValueError(
                f"Arguments {unknown}: found; {missing}: not found. Accepted at the "
                f"first step: some of {sorted({*here, *still})}, with all that have "
                f"a value at each step, {sorted(here)}."
            )
        for name, (leaf, time) in here.items():
            axis = int(time.axis or 0)
            value = jnp.expand_dims(jnp.asarray(first[name]), axis)
            check_shape(name, leaf, axis, 1, value)

    def by_step(self, future: dict[str, Any], horizon: int) -> dict[str, Array]:
        """Values of the arguments that states depend on, with time leading.

        :param future: their values at the next steps, in their own shapes.
        :param horizon: number of these steps.
        :raises ValueError: naming an argument that is missing or does not fit.
        """
        if horizon < 1:
            raise ValueError(f"horizon: found {horizon}; accepted is at least 1.")
        if future.keys() != self.needed:
            raise ValueError(
                f"future_inputs: found {sorted(future)}. Accepted: the arguments that "
                f"the states of the model depend on, {sorted(self.needed)}."
            )
        found = {}
        for _, name, leaf, time in self._over_time():
            if name in future:
                value, axis = jnp.asarray(future[name]), int(time.axis or 0)
                check_shape(name, leaf, axis, horizon, value)
                found[name] = jnp.moveaxis(value, axis, 0)
        return found

    def check(self, new: dict[str, Any]) -> None:
        """Values for one step must be complete and fit the arguments."""
        arguments, (times, _) = self.arguments, self.times
        check_names(arguments, times, new)
        missing = self.needed - set(new)
        absent = self.data - set(new)
        if absent != self.data:
            missing |= absent
        if missing:
            raise ValueError(
                f"Arguments {sorted(missing)}: found no values for the next step. "
                f"Accepted: one each of {sorted(self.needed)}, and all or none of "
                f"{sorted(self.data)}, which are data. Data that come at some steps "
                "want a mask among the arguments; those that never come are None from "
                "the first step of the filter on."
            )
        for name, leaf, time in zip(arguments.names, arguments.leaves, times):
            if name in new and time is not None:
                axis = int(time.axis or 0)
                value = jnp.expand_dims(jnp.asarray(new[name]), axis)
                check_shape(name, leaf, axis, 1, value)

    def window(
        self, last: dict[int, Array], fixed: dict[int, Array], new: dict[str, Array]
    ) -> tuple[tuple[tuple, dict], dict[int, Array]]:
        """Arguments for two steps, and those of the second that the next one keeps."""
        leaves, kept, arguments = list[Any](), dict[int, Array](), self.arguments
        for i, (name, leaf) in enumerate(zip(arguments.names, arguments.leaves)):
            time = self.times[0][i]
            if time is None:
                leaves.append(fixed.get(i, leaf))
            elif time.axis is None or (time.lag and name not in new):
                leaves.append(blank(leaf, time, 2, 0))
            elif time.lag:
                leaves.append(jnp.expand_dims(new[name], time.axis))
            else:
                kept[i] = new.get(name, jnp.zeros_like(last[i])).astype(last[i].dtype)
                leaves.append(jnp.stack([last[i], kept[i]], time.axis))
        return arguments.join(leaves), kept
