# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How a model goes on in time, as a filter has to know it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.forecasting.course import Course
from numpyro_svae.forecasting.filter_window import Beliefs, belief_of, continued
from numpyro_svae.forecasting.timeline import at_last, blank
from numpyro_svae.forecasting.window import check_names, check_shape

__all__ = ["FilterSetup"]


@dataclass(frozen=True, eq=False)
class FilterSetup:
    """What does not change from step to step.

    :param course: the model with its first data.
    :param needed: arguments that the states depend on.
    :param data: the other ones with time.
    """

    course: Course
    needed: frozenset[str]
    data: frozenset[str]

    @classmethod
    def of(cls, course: Course) -> FilterSetup:
        """Find out which arguments the states depend on."""
        window = course.window(1, {})

        @jax.jit
        def run(given: list[Array]) -> list[Array]:
            leaves = window.with_blanks(given)
            messages = course.run(random.PRNGKey(0), course.start, leaves)
            return [m["value"] for m in messages.values()]

        found = run([window.leaves[i] for i in window.blanks])
        names = {i: window.arguments.names[i] for i in window.blanks}
        needed = {n for i, n in names.items() if window.depends(run, found, i)}
        data = set(names.values()) - needed
        if set(course.observed) & set(course.chains):  # data are states
            needed, data = needed | data, set()
        return cls(course, frozenset(needed), frozenset(data))

    @cached_property
    def structure(self) -> Any:
        """The wiring of a window."""
        return continued(self.course.fit.guide._wiring)

    def begin(
        self, params: dict[str, Any], leaves: list[Any]
    ) -> tuple[Beliefs, dict[int, Array]]:
        """Beliefs and arguments at the last step of data."""
        course = self.course
        args, kwargs = course.arguments.join(leaves)
        guide = course.fit.guide
        states, beliefs = course.last_states(course.start), dict[str, Any]()
        for name, marginal in guide.posterior_local(params, *args, **kwargs).items():
            chain = course.chains.get(name)
            if chain is not None:
                shape = states[chain.first].shape
                batch = shape if guide._wiring.locals[name].discrete else shape[:-1]
                beliefs[name] = belief_of(marginal, batch, chain.lengths)
        last = {
            i: at_last(jnp.asarray(leaf), time.axis, course.lengths)
            for i, (leaf, time) in enumerate(zip(leaves, course.times[0]))
            if time is not None and time.axis is not None and not time.lag
        }
        return beliefs, last

    def check(self, new: dict[str, Any]) -> None:
        """Values for one step must be complete and fit the arguments."""
        arguments, (times, _) = self.course.arguments, self.course.times
        check_names(arguments, times, new)
        missing = self.needed - set(new)
        absent = self.data - set(new)
        if absent != self.data:
            missing |= absent
        if missing:
            raise ValueError(
                f"Arguments {sorted(missing)}: found no values for the next step. "
                f"Accepted: one each of {sorted(self.needed)}, and all or none of "
                f"{sorted(self.data)}, which are data."
            )
        for name, leaf, time in zip(arguments.names, arguments.leaves, times):
            if name in new and time is not None:
                axis = int(time.axis or 0)
                value = jnp.expand_dims(jnp.asarray(new[name]), axis)
                check_shape(name, jnp.asarray(leaf), axis, 1, value)

    def window(self, last: dict[int, Array], new: dict[str, Array]) -> tuple:
        """Arguments for two steps, and those of the second that the next one keeps."""
        course, leaves, kept = self.course, list[Any](), dict[int, Array]()
        times, lengths = course.times[0], course.lengths
        for i, (name, leaf) in enumerate(
            zip(course.arguments.names, course.arguments.leaves)
        ):
            time = times[i]
            if time is None:
                same = lengths is not None and np.array_equal(leaf, lengths)
                leaves.append(jnp.full_like(leaf, 2) if same else leaf)
            elif time.axis is None or (time.lag and name not in new):
                leaves.append(blank(leaf, time, 2, 0))
            elif time.lag:
                leaves.append(jnp.expand_dims(new[name], time.axis))
            else:
                kept[i] = new.get(name, jnp.zeros_like(last[i])).astype(last[i].dtype)
                leaves.append(jnp.stack([last[i], kept[i]], time.axis))
        return course.arguments.join(leaves), kept
