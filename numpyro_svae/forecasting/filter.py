# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Online filtering: states given the data so far, one step at a time.

A step is the guide's own inference on a window of two steps, of which the first has
the belief so far in the place of its prior, and no observation. In one chain that is
the exact recursion: what is known at the last step is all that the next one needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.diagnostics.evidence import read_fit
from numpyro_svae.forecasting.course import Course
from numpyro_svae.forecasting.filter_window import (
    Belief,
    Beliefs,
    belief_of,
    continued,
    infer_window,
)
from numpyro_svae.forecasting.timeline import at_last, blank
from numpyro_svae.forecasting.window import check_names, check_shape
from numpyro_svae.guide import AutoSVAE

__all__ = ["FilterState", "filter"]


@dataclass(frozen=True, eq=False)
class _Setup:
    """What does not change from step to step.

    :param course: the model with its first data.
    :param needed: arguments that the states depend on.
    :param data: the other ones with time.
    """

    course: Course
    needed: frozenset[str]
    data: frozenset[str]

    @classmethod
    def of(cls, course: Course) -> _Setup:
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


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["beliefs", "last", "params"],
    meta_fields=["setup"],
)
@dataclass(frozen=True)
class FilterState:
    """What is known of the states at one step, given the data up to it; a pytree.

    :func:`filter` makes the first one.

    :param beliefs: ``mean`` and ``covariance`` of Gaussian chains and probabilities of
        discrete ones, by site.
    :param last: arguments of the model at the step.
    :param params: parameters of the model and the guide.
    :param setup: how the model goes on in time.
    """

    beliefs: Beliefs
    last: dict[int, Array]
    params: dict[str, Any]
    setup: _Setup = field(repr=False)

    @property
    def marginals(self) -> dict[str, dist.Distribution]:
        """The distributions of the states at this step, by the sites of the chains."""
        return {
            name: dist.MultivariateNormal(*belief)
            if isinstance(belief, Belief)
            else dist.Categorical(belief)
            for name, belief in self.beliefs.items()
        }

    def update(self, **new: Any) -> FilterState:
        """Take the next observation.

        It is compiled by itself, and works within ``jit``, ``vmap`` and ``lax.scan``.

        :param new: by argument of the model, its value at the next step: its shape
            without the axis of time. Inputs of a chain are those that lead to this
            step. Leave all data out if nothing is seen.
        :return: the next state.
        :raises ValueError: if arguments are missing or do not fit.
        """
        self.setup.check(new)
        return _update(self, {n: jnp.asarray(v) for n, v in new.items()})

    def restart(self, **data: Any) -> FilterState:
        """Begin with other sequences, without reading the model again.

        It is compiled by itself, once for each number of steps.

        :param data: by argument of the model, what the data so far are for as many
            sequences as before: two steps or more. All others stay as they are.
        :return: the state at their last step, by the same parameters.
        :raises ValueError: if the model has no such argument, or padded sequences.
        """
        course = self.setup.course
        unknown = sorted(set(data) - set(course.arguments.names))
        if unknown or course.lengths is not None:
            raise ValueError(
                f"Arguments {unknown}, lengths {course.lengths}: found. Accepted: some "
                f"of {sorted(set(course.arguments.names))}, and no padded sequences."
            )
        return _restart(self, {n: jnp.asarray(v) for n, v in data.items()})


@jax.jit
def _restart(state: FilterState, data: dict[str, Array]) -> FilterState:
    course = state.setup.course
    named = zip(course.arguments.names, course.arguments.leaves)
    leaves = [data.get(name, leaf) for name, leaf in named]
    beliefs, last = _begin(course, state.params, leaves)
    return replace(state, beliefs=beliefs, last=last)


def _begin(
    course: Course, params: dict[str, Any], leaves: list[Any]
) -> tuple[Beliefs, dict[int, Array]]:
    """Beliefs and arguments at the last step of data."""
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


@jax.jit
def _update(state: FilterState, new: dict[str, Array]) -> FilterState:
    setup, course = state.setup, state.setup.course
    arguments, last = setup.window(state.last, new)
    beliefs = infer_window(
        course.fit.guide,
        setup.structure,
        course.times[1],
        state.params,
        state.beliefs,
        arguments,
        seen=not setup.data or bool(setup.data & set(new)),
    )
    return replace(state, beliefs=beliefs, last=last)


def filter(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> FilterState:
    """Filter a sequence as its steps come, without running through its past again.

    The data so far set the first state; :meth:`FilterState.update` takes one step
    more. For linear dynamical systems and hidden Markov models the result is exact: it
    is what smoothing all the data so far says of the last step. Of a switching system
    the guide's product of states and regimes is kept, and the past of neither is
    revised (assumed density filtering).

    The recognition function must look at each step by itself: it is run on windows of
    two steps, and only what it says of the second is used. Global sites are at their
    expectations, as in smoothing.

    :param model: the model. Its number of steps must come from its arguments.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param args: the arguments of the model, with the data so far: two steps or more.
    :param kwargs: the keyword arguments of the model.
    :return: the state at the last step of the data, a :class:`FilterState`.
    :raises ValueError: if the model has no chain, or has latent sites of sequences.

    **Example**

    .. code-block:: python

        state = ns.filter(model, guide, params, y, actions)
        state = state.update(y=new_y, actions=action)
        state.marginals["x"].mean

        def step(state, new):
            state = state.update(**new)
            return state, state.marginals["x"].mean

        state, means = jax.lax.scan(step, state, {"y": later_y, "actions": later})
    """
    fit = read_fit(model, guide, params, args, kwargs)
    course = Course.of(fit, random.PRNGKey(0), 1)
    _check_locals(course)
    beliefs, last = _begin(course, params, list(course.arguments.leaves))
    return FilterState(beliefs, last, dict(params), _Setup.of(course))


def _check_locals(course: Course) -> None:
    """All latent local sites must be in time."""
    wiring, (_, times) = course.fit.guide._wiring, course.times
    firsts = {n for n in wiring.locals if wiring.scans}
    static = sorted(set(wiring.locals) - set(times) - firsts)
    if static:
        raise ValueError(
            f"Sites {static}: they are latent, and there is one for a whole sequence. "
            "Accepted by the filter: latent sites at the steps; smooth all of the data "
            "for others."
        )
