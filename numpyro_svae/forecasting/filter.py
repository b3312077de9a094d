# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Online filtering: states given the data so far, one step at a time.

A step is the guide's own inference on a window of two steps, of which the first has
the belief so far in the place of its prior, and no observation. In one chain that is
the exact recursion: what is known at the last step is all that the next one needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.errors import JAXTypeError
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.diagnostics.fit import read_fit
from numpyro_svae.diagnostics.programs import compiled, inferred, kept
from numpyro_svae.forecasting.ahead import draws_ahead
from numpyro_svae.forecasting.course import Course
from numpyro_svae.forecasting.filter_setup import (
    FilterSetup,
    look_ahead,
    only_arguments,
)
from numpyro_svae.forecasting.filter_window import Belief, Beliefs
from numpyro_svae.forecasting.timeline import Arguments, by_leaf
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.shared_programs import shared_jit
from numpyro_svae.tracing import check_known

__all__ = ["FilterState", "filter", "read_filter"]


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
            step. Leave all data out, or None, if nothing is seen.
        :return: the next state.
        :raises ValueError: if arguments are missing or do not fit.
        """
        known = by_leaf(new)
        self.setup.check(known)
        return _update(self, known)

    def forecast(
        self,
        rng_key: Array,
        *,
        horizon: int,
        future_inputs: Mapping[str, Any] | None = None,
        num_samples: int = 100,
    ) -> dict[str, Array]:
        """Draw what comes after this step.

        Each path is a run of the model, from global sites and a state that are drawn
        from what is known at this step. It works within ``jit`` and ``lax.scan``: so
        all times of a sequence are forecast from, as they are filtered, in the memory
        of one.

        :param rng_key: random key.
        :param horizon: number of steps, ``H``.
        :param future_inputs: by argument that the states depend on, its values at these
            steps, in its own shape with ``H`` in the place of time.
        :param num_samples: number of paths.
        :return: by site in time, as :func:`forecast` has them: ``num_samples`` leading
            and ``H`` in the place of time.
        :raises ValueError: naming an argument that is missing or does not fit.
        """
        given = by_leaf(future_inputs or {})
        inputs = self.setup.by_step(given, horizon)
        return draws_ahead(self, rng_key, inputs, horizon, num_samples)

    def begin(self, before: Beliefs | None = None, /, **first: Any) -> FilterState:
        """Begin with other sequences, of which the first step alone is seen.

        States are then known from the prior of the first ones and from what is seen
        there. It is compiled by itself, once.

        :param before: beliefs of the first states in the place of their priors.
        :param first: by argument of the model, its value at the first step: its shape
            without the axis of time. What leads from step to step, such as the actions,
            has none. Arguments without time may be left out, and stay as they are.
        :return: the state at the first step, by the same parameters.
        :raises ValueError: if arguments are missing or do not fit.
        """
        known = by_leaf(first)
        self.setup.check_first(known)
        return _begin(self, before or {}, known)

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
        names, timed, data = self.setup.arguments.names, self.setup.timed, by_leaf(data)
        unknown, missing = sorted(set(data) - set(names)), sorted(timed - set(data))
        if unknown or missing or self.lengths is not None:
            raise ValueError(
                f"Arguments {unknown}, lengths {self.lengths}: found; {missing}: not "
                f"found. Accepted: some of {sorted(set(names))}, with all that have "
                f"time, {sorted(timed)}, and no padded sequences."
            )
        given = {i: data[n] for i, n in enumerate(names) if n in data}
        fixed = {i: given.get(i, leaf) for i, leaf in self.fixed.items()}
        return _started(replace(self, fixed=fixed), {**fixed, **given})


def _started(state: FilterState, arrays: dict[int, Any]) -> FilterState:
    """The state at the last step of data, which are arguments by their place."""
    local = inferred(state.setup.fit(state.params, arrays))
    try:
        return _start(state, arrays, local)
    except JAXTypeError:  # the model has to know values of its arguments
        return _ended(state, arrays, local)


def _ended(
    state: FilterState, arrays: dict[int, Any], local: LocalPosterior
) -> FilterState:
    fit = state.setup.fit(state.params, arrays).knowing(local)
    beliefs, bound, last = state.setup.begin(fit, state.lengths)
    return replace(state, beliefs=beliefs, bound=bound, last=last)


_start = shared_jit(_ended)


@shared_jit
def _begin(state: FilterState, before: Beliefs, first: dict[str, Array]) -> FilterState:
    setup, names = state.setup, state.setup.arguments.names
    fixed = {i: first.get(names[i], leaf) for i, leaf in state.fixed.items()}
    arguments, last = setup.first_window(fixed, first)
    beliefs, bound = setup.infer(state.params, before, arguments, (True, False))
    return replace(state, beliefs=beliefs, bound=bound, last=last, fixed=fixed)


@jax.jit
def _update(state: FilterState, new: dict[str, Array]) -> FilterState:
    setup = state.setup
    arguments, last = setup.window(state.last, state.fixed, new)
    seen = False, not setup.data or bool(setup.data & set(new))
    beliefs, bound = setup.infer(state.params, state.beliefs, arguments, seen)
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
    more, and :meth:`FilterState.begin` the first step of other sequences. What is not
    known yet, such as the reward of an action, is an argument that is None: a site
    without a value says nothing of the states.

    For linear dynamical systems and hidden Markov models the result is exact: it is
    what smoothing all the data so far says of the last step. Of a switching system the
    guide's product of states and regimes is kept, and the past of neither is revised
    (assumed density filtering).

    The recognition function must look at each step by itself: it is run on windows of
    two steps, and only what it says of the second is used. Global sites are at their
    expectations, as in smoothing.

    :param model: the model. Its number of steps must come from its arguments.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param args: the arguments of the model, with the data so far: two steps or more.
    :param kwargs: the keyword arguments of the model.
    :return: the state at the last step of the data, a :class:`FilterState`.
    :raises TypeError: within ``jit``, ``vmap`` or ``grad``, where the methods of a
        state that is made outside work.
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
    instead = (
        "the methods of a state that is made outside, which take arrays that are traced"
        ": state.restart(y=...) for other data, state.begin and state.update step by "
        "step, dataclasses.replace(state, params=...) for other parameters"
    )
    check_known("filter", (params, args, kwargs), instead)
    state, leaves = read_filter(model, guide, params, args, kwargs)
    arrays: dict[int, Any] = {
        i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Array | np.ndarray)
    }
    return _started(state, arrays)


def read_filter(
    model: Callable, guide: AutoSVAE, params: dict[str, Any], args: tuple, kwargs: dict
) -> tuple[FilterState, tuple[Any, ...]]:
    """A filter that has seen nothing yet, and the leaves of the arguments.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters.
    :param args: arguments of the model, of two steps or more; arrays matter by their
        shapes alone.
    :param kwargs: likewise.
    """
    fit = read_fit(model, guide, params, args, kwargs)
    draws, depends, lengths, says = compiled(look_ahead, fit)()
    matter = only_arguments(jax.device_get(depends))  # with these parameters
    names = frozenset(argument.name for argument in matter)
    needed = frozenset(argument.name for argument in matter if matter[argument])

    def make() -> FilterSetup:
        return FilterSetup.of(Course(fit, draws, 1), names, needed)

    setup = kept(fit, (FilterSetup, needed), make, shapes=True)
    leaves = Arguments.of(model, args, kwargs).leaves
    fixed = setup.fixed(leaves, jax.device_get(says))
    nothing = jnp.zeros(())
    state = FilterState({}, nothing, {}, dict(fit.params), fixed, lengths, setup)
    return state, leaves
