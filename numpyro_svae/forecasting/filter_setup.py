# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How a model goes on in time, as a filter has to know it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import block

from numpyro_svae.diagnostics.fit import Fit, read_fit
from numpyro_svae.forecasting.continuation import Chain, hidden_laws
from numpyro_svae.forecasting.course import Course
from numpyro_svae.forecasting.filter_window import (
    Beliefs,
    Window,
    belief_of,
    continued,
)
from numpyro_svae.forecasting.own_time import own_time
from numpyro_svae.forecasting.scanned_ends import check_last
from numpyro_svae.forecasting.step_arguments import StepArguments
from numpyro_svae.forecasting.timeline import Arguments, at_last
from numpyro_svae.forecasting.window import Depends, Missing
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.declare.sampling import sample_plain
from numpyro_svae.inference.local.datum_bounds import bound_of
from numpyro_svae.program.run.arrays import jax_array
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.probing import (
    plain_run,
    random_globals_of,
    random_local,
)

__all__ = ["FilterSetup", "look_ahead", "only_arguments"]


@dataclass(frozen=True, eq=False)
class FilterSetup(StepArguments):
    """What does not change from step to step, nor with other data of these shapes.

    The other parameters are those of :class:`StepArguments`.

    :param guide: the guide.
    :param chains: the chains, by their sites.
    :param batches: the positions of their last states.
    """

    guide: AutoSVAE
    chains: dict[str, Chain]
    batches: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, course: Course, names: Set[str], needed: Set[str]) -> FilterSetup:
        """Read how a model goes on.

        :param course: the model with its data.
        :param names: of the arguments with time.
        :param needed: those that the states depend on.
        :raises ValueError: if the model has latent sites of sequences.
        """
        _check_locals(course)
        data = names - needed
        if set(course.observed) & set(course.chains):  # data are states
            needed, data = needed | data, set()
        guide, batches = course.fit.guide, dict[str, tuple[int, ...]]()
        states = course.last_states(course.start)
        for name, chain in course.chains.items():
            shape = states[chain.first].shape
            local = guide.structure.locals.get(name)
            single = chain.number or (local and local.discrete)
            batches[name] = shape if single else shape[:-1]
        leaves = tuple(map(_shape_of, course.arguments.leaves))
        return cls(
            replace(course.arguments, leaves=leaves),
            course.times,
            frozenset(needed),
            frozenset(data),
            guide,
            {n: chain._replace(lengths=None) for n, chain in course.chains.items()},
            batches,
        )

    @cached_property
    def structure(self) -> Any:
        """The wiring of a window."""
        return continued(self.guide.structure)

    def fit(self, params: dict[str, Any], arrays: dict[int, Any]) -> Fit:
        """The guide with data, which are arguments by their place."""
        leaves = self.arguments.leaves
        own = tuple(arrays.get(i, leaf) for i, leaf in enumerate(leaves))
        return read_fit(self.guide.model, self.guide, params, *self.arguments.join(own))

    def begin(
        self, fit: Fit, lengths: Array | None
    ) -> tuple[Beliefs, Array, dict[int, Array]]:
        """Beliefs at the last step of data, their bound, and arguments there."""
        beliefs, given = dict[str, Any](), (fit.params, fit.args, fit.kwargs)
        _, bound, local = fit.guide._infer_all(*given, examine=False)
        leaves = Arguments.of(fit.model, fit.args, fit.kwargs).leaves
        for name, marginal in local.marginals.items():
            if name in self.chains:
                beliefs[name] = belief_of(marginal, self.batches[name], lengths)
        scanned = any(chain.first != name for name, chain in self.chains.items())
        last = dict[int, Array]()
        for i, (leaf, time) in enumerate(zip(leaves, self.times[0])):
            if time is not None and time.axis is not None and not time.lag:
                leaf, name = jnp.asarray(leaf), self.arguments.names[i]
                if name in self.needed:
                    check_last(name, leaf, time.axis, lengths, scanned)
                last[i] = at_last(leaf, time.axis, lengths)
        return beliefs, bound_of(self.guide.structure, bound.sites, local), last

    def infer(
        self,
        params: dict[str, Any],
        beliefs: Beliefs,
        arguments: tuple[tuple, dict],
        seen: tuple[bool, bool],
    ) -> tuple[Beliefs, Array]:
        """Beliefs at the step of a window that is seen, or its second, and the bound.

        :param params: parameters.
        :param beliefs: at its first step; without any, its chains have their priors.
        :param arguments: of the model, for two steps.
        :param seen: which of the steps have data.
        """
        structure = self.structure if beliefs else self.guide.structure
        window = Window(
            self.guide, structure, self.times[1], params, *arguments, beliefs, seen
        )
        marginals, bound = window.infer()
        found = {
            name: belief_of(marginal, self.batches[name], first=seen[0])
            for name, marginal in marginals.items()
            if name in self.batches
        }
        return found, bound


def look_ahead(
    fit: Fit,
) -> tuple[dict[str, Array], Depends, Array | None, dict[int, Array]]:
    """Values of the latent sites, what the next states depend on there, and lengths.

    Any values will do, so that nothing is inferred for it.

    :param fit: the fitted guide, its model and the data.
    :return: these, and whether an argument says the lengths, where it may.
    """
    course = Course(fit, _any_values(fit), 1)
    window, begin = course.window(1, {}), course.begin(course.start)

    def run(leaves: tuple) -> list[Array]:
        messages = course.run(random.PRNGKey(0), begin, leaves)
        values = [message["value"] for message in messages.values()]
        return values + hidden_laws(messages, course.times[1])

    depends = window.depends(run) | own_time(course)
    return course.draws, depends, course.lengths, course.says_lengths


def _any_values(fit: Fit) -> dict[str, Array]:
    """Values that latent sites may have: random ones, the same every time.

    They are for what holds at all values, as what a program does with its arguments.

    :param fit: a fit; its guide has read the model.
    :return: by site as draws are, with an axis of one draw.
    """
    structure, rng = fit.guide.structure, np.random.default_rng(0)
    given = random_globals_of(structure.priors, rng)
    spelled = fit.params, structure.scans, structure.shown
    program = Program(fit.model, fit.args, fit.kwargs, random.PRNGKey(0), *spelled)
    messages = plain_run(program, structure, given)
    for name, local in structure.locals.items():
        zero = messages[name]["value"]
        messages[name]["value"] = jax_array(random_local(local, zero, rng))
    with block():
        values = sample_plain(structure, messages)
    return {name: jnp.asarray(value)[None] for name, value in values.items()}


def only_arguments(depends: Depends) -> dict[Missing, Any]:
    """Whether the next states depend on each argument.

    :param depends: as :func:`look_ahead` has it, with known values.
    :raises ValueError: if steps depend on a number that the model gives them.
    """
    found = {}
    for what, matters in depends.items():
        if isinstance(what, Missing):
            found[what] = matters
        elif matters:
            what.refuse()
    return found


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


def _shape_of(leaf: Any) -> Any:
    """The shape of an array; other leaves as they are."""
    if isinstance(leaf, Array | np.ndarray):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf
