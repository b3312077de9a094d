# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How a model goes on in time, as a filter has to know it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.diagnostics.fit import Fit
from numpyro_svae.forecasting.course import Chain, Course
from numpyro_svae.forecasting.filter_window import Beliefs, belief_of, continued
from numpyro_svae.forecasting.timeline import Arguments, InTime, at_last, blank
from numpyro_svae.forecasting.window import Missing, check_names, check_shape
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.local.datum_bounds import bound_of

__all__ = ["FilterSetup", "look_ahead"]


@dataclass(frozen=True, eq=False)
class FilterSetup:
    """What does not change from step to step, nor with other data of these shapes.

    :param guide: the guide.
    :param arguments: of the model; arrays have only their shapes.
    :param times: where time is in the arguments, and in the sites.
    :param chains: the chains, by their sites.
    :param batches: the positions of their last states.
    :param needed: arguments that the states depend on.
    :param data: the other ones with time.
    """

    guide: AutoSVAE
    arguments: Arguments
    times: tuple[tuple[InTime | None, ...], dict[str, InTime]]
    chains: dict[str, Chain]
    batches: dict[str, tuple[int, ...]]
    needed: frozenset[str]
    data: frozenset[str]

    @classmethod
    def of(cls, course: Course, names: Set[str], needed: Set[str]) -> FilterSetup:
        """Read how a model goes on.

        :param course: the model with its data.
        :param names: of the arguments with time.
        :param needed: those that the states depend on.
        """
        data = names - needed
        if set(course.observed) & set(course.chains):  # data are states
            needed, data = needed | data, set()
        guide, batches = course.fit.guide, dict[str, tuple[int, ...]]()
        states = course.last_states(course.start)
        for name, chain in course.chains.items():
            shape = states[chain.first].shape
            local = guide.structure.locals.get(name)
            batches[name] = shape if local and local.discrete else shape[:-1]
        leaves = tuple(map(_shape_of, course.arguments.leaves))
        return cls(
            guide,
            replace(course.arguments, leaves=leaves),
            course.times,
            {n: chain._replace(lengths=None) for n, chain in course.chains.items()},
            batches,
            frozenset(needed),
            frozenset(data),
        )

    @property
    def timed(self) -> set[str]:
        """The arguments that are arrays over time."""
        pairs = zip(self.arguments.names, self.times[0])
        return {
            name for name, time in pairs if time is not None and time.axis is not None
        }

    @cached_property
    def structure(self) -> Any:
        """The wiring of a window."""
        return continued(self.guide.structure)

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

    def fixed(self, leaves: Sequence[Any], lengths: Array | None) -> dict[int, Array]:
        """The arrays among arguments that have no time, by their place.

        :param leaves: of the arguments, with known values.
        :param lengths: of the sequences; a window has two steps.
        """
        found = {}
        for i, (leaf, time) in enumerate(zip(leaves, self.times[0])):
            if time is None and isinstance(leaf, Array | np.ndarray):
                same = lengths is not None and np.array_equal(leaf, lengths)
                found[i] = jnp.full_like(leaf, 2) if same else jnp.asarray(leaf)
        return found

    def begin(
        self, params: dict[str, Any], leaves: Sequence[Any], lengths: Array | None
    ) -> tuple[Beliefs, Array, dict[int, Array]]:
        """Beliefs at the last step of data, their bound, and arguments there."""
        args, kwargs = self.arguments.join(tuple(leaves))
        beliefs = dict[str, Any]()
        _, bound, local = self.guide._infer_all(params, args, kwargs, examine=False)
        for name, marginal in local.marginals.items():
            if name in self.chains:
                beliefs[name] = belief_of(marginal, self.batches[name], lengths)
        last = {
            i: at_last(jnp.asarray(leaf), time.axis, lengths)
            for i, (leaf, time) in enumerate(zip(leaves, self.times[0]))
            if time is not None and time.axis is not None and not time.lag
        }
        return beliefs, bound_of(self.guide.structure, bound.sites, local), last

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
                f"{sorted(self.data)}, which are data."
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


def look_ahead(fit: Fit, key: Array) -> tuple[dict[str, Array], dict[Missing, Array]]:
    """A draw of the latent sites, and what the next states depend on in it.

    :param fit: the fitted guide, its model and the data.
    :param key: random key.
    """
    course = Course.of(fit, key, 1)
    window, begin = course.window(1, {}), course.begin(course.start)

    def run(leaves: tuple) -> list[Array]:
        messages = course.run(random.PRNGKey(0), begin, leaves)
        return [m["value"] for m in messages.values()]

    return course.draws, window.depends(run)


def _shape_of(leaf: Any) -> Any:
    """The shape of an array; other leaves as they are."""
    if isinstance(leaf, Array | np.ndarray):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf
