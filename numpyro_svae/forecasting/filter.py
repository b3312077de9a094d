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
from functools import partial
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.diagnostics.fit import read_fit
from numpyro_svae.diagnostics.programs import compiled, kept
from numpyro_svae.forecasting.course import Course
from numpyro_svae.forecasting.filter_setup import FilterSetup, look_ahead
from numpyro_svae.forecasting.filter_window import (
    Belief,
    Beliefs,
    infer_window,
)
from numpyro_svae.guide import AutoSVAE

__all__ = ["FilterState", "filter"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["beliefs", "bound", "last", "params", "fixed", "lengths"],
    meta_fields=["setup"],
)
@dataclass(frozen=True)
class FilterState:
    """What is known of the states at one step, given the data up to it; a pytree.

    :func:`filter` makes the first one.

    :param beliefs: ``mean`` and ``covariance`` of Gaussian chains and probabilities of
        discrete ones, by site.
    :param bound: of the log density of the data of this step given those before (of
        the first state: of all data so far), in nats, by sequence. It is that density
        where the filter is exact and no site is global, and else the evidence lower
        bound at the beliefs so far. NaN where a likelihood is sampled, which is that
        of a network with a recognition function.
    :param last: arguments of the model at the step.
    :param params: parameters of the model and the guide.
    :param fixed: arguments of the model that are arrays without time.
    :param lengths: of the first sequences, if they are padded.
    :param setup: how the model goes on in time.
    """

    beliefs: Beliefs
    bound: Array
    last: dict[int, Array]
    params: dict[str, Any]
    fixed: dict[int, Array]
    lengths: Array | None
    setup: FilterSetup = field(repr=False)

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
            sequences as before: two steps or more. Arguments without time may be left
            out, and stay as they are.
        :return: the state at their last step, by the same parameters.
        :raises ValueError: if the model has no such argument, if one that has time is
            missing, or if sequences are padded.
        """
        names, timed = set(self.setup.arguments.names), self.setup.timed
        unknown, missing = sorted(set(data) - names), sorted(timed - set(data))
        if unknown or missing or self.lengths is not None:
            raise ValueError(
                f"Arguments {unknown}, lengths {self.lengths}: found; {missing}: not "
                f"found. Accepted: some of {sorted(names)}, with all that have time, "
                f"{sorted(timed)}, and no padded sequences."
            )
        return _restart(self, {n: jnp.asarray(v) for n, v in data.items()})


@jax.jit
def _restart(state: FilterState, data: dict[str, Array]) -> FilterState:
    arguments, setup = state.setup.arguments, state.setup
    leaves, fixed = list[Any](), dict[int, Array]()
    for i, (name, leaf) in enumerate(zip(arguments.names, arguments.leaves)):
        leaves.append(data.get(name, state.fixed.get(i, leaf)))
        if i in state.fixed:
            fixed[i] = leaves[i]
    beliefs, bound, last = setup.begin(state.params, leaves, None)
    return replace(state, beliefs=beliefs, bound=bound, last=last, fixed=fixed)


@jax.jit
def _update(state: FilterState, new: dict[str, Array]) -> FilterState:
    setup = state.setup
    arguments, last = setup.window(state.last, state.fixed, new)
    beliefs, bound = infer_window(
        setup.guide,
        setup.structure,
        setup.times[1],
        state.params,
        state.beliefs,
        arguments,
        seen=not setup.data or bool(setup.data & set(new)),
    )
    return replace(state, beliefs=beliefs, bound=bound, last=last)


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
    draws, depends = compiled(look_ahead, fit)(random.PRNGKey(0))
    course = Course(fit, draws, 1)
    _check_locals(course)
    names = frozenset(argument.name for argument in depends)
    matter = jax.device_get(depends)  # with these parameters
    needed = frozenset(argument.name for argument in matter if matter[argument])
    make = partial(FilterSetup.of, course, names, needed)
    setup = kept(fit, (FilterSetup, needed), make, shapes=True)
    leaves, lengths = course.arguments.leaves, course.lengths
    fixed = setup.fixed(leaves, lengths)
    beliefs, bound, last = setup.begin(params, leaves, lengths)
    return FilterState(beliefs, bound, last, dict(params), fixed, lengths, setup)


def _check_locals(course: Course) -> None:
    """All latent local sites must be in time."""
    wiring, (_, times) = course.fit.guide.structure, course.times
    firsts = {n for n in wiring.locals if wiring.scans}
    static = sorted(set(wiring.locals) - set(times) - firsts)
    if static:
        raise ValueError(
            f"Sites {static}: they are latent, and there is one for a whole sequence. "
            "Accepted by the filter: latent sites at the steps; smooth all of the data "
            "for others."
        )
