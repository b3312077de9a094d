# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A fitted guide with data, read as something that goes on in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.diagnostics.fit import Fit, sample_messages
from numpyro_svae.forecasting.continuation import Chain, Continue, chain_of
from numpyro_svae.forecasting.scanned_ends import check_last, last_of_scan, says_ends
from numpyro_svae.forecasting.timeline import (
    Arguments,
    InTime,
    Shapes,
    at_last,
    blank,
    find_times,
)
from numpyro_svae.forecasting.window import Window, check_names, check_shape
from numpyro_svae.program.run.kinds import lengths_of
from numpyro_svae.program.run.known_starts import Starts, start_of
from numpyro_svae.program.run.subsample import plate_axis

__all__ = ["Begin", "Course", "Messages", "draw_sites"]

Messages = dict[str, dict]


class Begin(NamedTuple):
    """What a future begins with.

    :param states: the last states of the chains, by the site that begins each.
    :param values: of the sites that are not in time.
    """

    states: dict[str, Array]
    values: dict[str, Array]


def draw_sites(fit: Fit, key: Array, num_samples: int) -> dict[str, Array]:
    """Draws of the latent sites from the guide, leading."""

    def draw(key: Array) -> dict[str, Array]:
        sites = sample_messages(fit.trace(fit.guide, key, {}))
        shown = {n: m for n, m in sites.items() if not m["infer"].get("is_auxiliary")}
        return {name: message["value"] for name, message in shown.items()}

    return jax.vmap(draw)(random.split(key, num_samples))


@dataclass(frozen=True, eq=False)
class Course:
    """A model with its data, which can be run on from its last states.

    :param fit: the fitted guide, its model and the data.
    :param draws: of the latent sites from the guide, leading.
    :param num_samples: number of draws.
    """

    fit: Fit
    draws: dict[str, Array]
    num_samples: int

    @classmethod
    def of(cls, fit: Fit, key: Array, num_samples: int) -> Course:
        """Draw the latent sites."""
        return cls(fit, draw_sites(fit, key, num_samples), num_samples)

    # what there is

    @cached_property
    def start(self) -> dict[str, Array]:
        """One of the draws."""
        return {name: value[0] for name, value in self.draws.items()}

    @cached_property
    def messages(self) -> Messages:
        """The trace of the model at that draw."""
        return self.fit.trace(self.fit.model, random.PRNGKey(0), self.start)

    @cached_property
    def observed(self) -> dict[str, dict]:
        """The messages of the observed sites."""
        sites = sample_messages(self.messages).items()
        return {name: m for name, m in sites if m["is_observed"]}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the data of an observed site, of all of them."""
        message, batch = self.observed[name], self.fit.batch
        shape = list(np.shape(message["value"]))
        if batch is not None:
            shape[plate_axis(message, batch.plate)[0]] = batch.total
        return tuple(shape)

    def members(self, name: str, values: Array) -> Array:
        """Of values of an observed site, those of the members of the batch."""
        batch = self.fit.batch
        if batch is None:
            return values
        axis, _ = plate_axis(self.observed[name], batch.plate)
        return jnp.take(values, self.fit.params[batch.plate], axis)

    @cached_property
    def chains(self) -> dict[str, Chain]:
        """The chains, by their sites."""
        found = {}
        for name, message in sample_messages(self.messages).items():
            chain = chain_of(message["fn"])
            if chain is not None:
                rank = len(message["fn"].batch_shape)
                found[name] = Chain(name, rank, lengths_of(chain[1]))
        for scan in self.fit.guide.structure.scans:
            for name, own in scan.chains.items():
                lengths = lengths_of(self._ended.get(name))
                found[name] = Chain(own.first, 0, lengths, name in scan.numbers)
        if not found:
            raise ValueError(
                "The model: found no chain of states, so nothing goes on in time. "
                "Accepted: a LinearGaussianChain, a NonlinearGaussianChain, a "
                "DiscreteMarkovChain, or a chain that is written with scan. Data "
                "without time are scored by `log_likelihood`."
            )
        return found

    @cached_property
    def _ended(self) -> dict[str, Any]:
        return self.fit.ended_chains()

    @cached_property
    def num_steps(self) -> int:
        """Number of steps of the data."""
        scanned = {n for n, chain in self.chains.items() if chain.first != n}
        found = {
            self._path(self.start, name).shape[chain.axis] + (name in scanned)
            for name, chain in self.chains.items()
        }
        if len(found) > 1:
            raise ValueError(
                f"The chains {sorted(self.chains)}: found lengths {sorted(found)}. "
                "Accepted: chains with the same number of steps."
            )
        return found.pop()

    @property
    def lengths(self) -> Array | None:
        """Lengths of the sequences, if they are padded."""
        return next(iter(self.chains.values())).lengths

    @cached_property
    def says_lengths(self) -> dict[int, Array]:
        """Arguments that may be the lengths of the sequences, and whether they are.

        They are where the sequences are shorter by one if the argument is. What has the
        same values may be something else.
        """
        leaves, found = self.arguments.leaves, dict[int, Array]()
        for i, (leaf, time) in enumerate(zip(leaves, self.times[0])):
            if self.lengths is None or time is not None or not _counts(leaf):
                continue

            def lengths(leaf: Array, i: int = i) -> Any:
                other = (*leaves[:i], leaf, *leaves[i + 1 :])
                args, kwargs = self.arguments.join(other)
                fit = self.fit._replace(args=args, kwargs=kwargs)
                return Course(fit, self.draws, self.num_samples).lengths

            found[i] = jnp.array_equal(lengths(leaf - 1), self.lengths - 1)
            if self._ended:
                found[i] = says_ends(lengths, leaf, self.num_steps)
        return found

    def _path(self, draw: dict[str, Array], name: str) -> Array:
        return draw[name] if name in draw else self.observed[name]["value"]

    def last_states(self, draw: dict[str, Array]) -> dict[str, Array]:
        """The last states of the chains in a draw, by the site that begins each."""
        found = {}
        for name, chain in self.chains.items():
            path, ended = self._path(draw, name), self._ended.get(name)
            if ended is None:
                found[chain.first] = at_last(path, chain.axis, chain.lengths)
            else:
                first = draw.get(chain.first, chain.as_written(start_of(ended)))
                found[chain.first] = last_of_scan(first, path, chain.lengths)
        return found

    # arguments and sites in time

    @cached_property
    def arguments(self) -> Arguments:
        """The arguments of the model."""
        return Arguments.of(self.fit.model, self.fit.args, self.fit.kwargs)

    @cached_property
    def times(self) -> tuple[tuple[InTime | None, ...], dict[str, InTime]]:
        """Where time is in the arguments, and in the sites."""
        rank = next(iter(self.chains.values())).axis
        return find_times(self._shapes, self.arguments, self.num_steps, rank)

    def _shapes(self, leaves: tuple) -> Shapes:
        found: Shapes = {}

        def run() -> None:
            key, kept = random.PRNGKey(0), self.fit.global_names
            messages = self.run(key, self._begin(self.start, kept), leaves)
            found.update({n: np.shape(m["value"]) for n, m in messages.items()})

        jax.eval_shape(run)
        return found

    def begin(self, draw: dict[str, Array]) -> Begin:
        """What the future needs of a draw; latent sites in time are drawn anew."""
        return self._begin(draw, set(draw) - set(self.times[1]))

    def _begin(self, draw: dict[str, Array], kept: set[str]) -> Begin:
        states = self.last_states(draw)
        return Begin(states, {n: v for n, v in draw.items() if n in kept - set(states)})

    def run(self, key: Array, begin: Begin, leaves: tuple) -> Messages:
        """Run the model on from last states.

        :param key: random key.
        :param begin: what is there of the past.
        :param leaves: of the arguments, for the last step of the data and those after.
        :return: the messages of sample and deterministic sites.
        """
        states, values = begin
        args, kwargs = self.arguments.join(leaves)
        fit = self.fit._replace(args=args, kwargs=kwargs)
        model = Starts(fit.model, fit.guide.structure.scans, states)
        messages = fit.trace(Continue(model, states, fit.known_parts), key, values)
        shown = ("sample", "deterministic")
        return {n: m for n, m in messages.items() if m["type"] in shown}

    def window(self, horizon: int, future: Mapping[str, Any]) -> Window:
        """The arguments for the last step of the data and those after.

        :param horizon: number of steps after it.
        :param future: by argument, its values at these steps.
        :raises ValueError: if an argument is unknown or has another shape.
        """
        arguments, (times, _) = self.arguments, self.times
        check_names(arguments, times, future)
        leaves: list[Any] = []
        blanks: dict[int, InTime] = {}
        for i, (name, leaf) in enumerate(zip(arguments.names, arguments.leaves)):
            time = times[i]
            if i in self.says_lengths:  # none ends within the window
                leaf = jnp.where(self.says_lengths[i], horizon + 1, leaf)
            elif time is not None and name in future:
                leaf = self._extended(name, leaf, time, horizon, future[name])
            elif time is not None:
                if time.axis is not None:
                    blanks[len(leaves)] = time
                leaf = blank(leaf, time, horizon + 1)
            leaves.append(leaf)
        return Window(arguments, tuple(leaves), blanks, horizon)

    def _extended(
        self, name: str, leaf: Any, time: InTime, horizon: int, future: Any
    ) -> Array:
        """The values at the last step of the data, if it has any, and after."""
        leaf, future, axis = jnp.asarray(leaf), jnp.asarray(future), int(time.axis or 0)
        check_shape(name, leaf, axis, horizon, future)
        if time.lag:
            return future
        check_last(name, leaf, axis, self.lengths, bool(self._ended))
        last = jnp.expand_dims(at_last(leaf, axis, self.lengths), axis)
        return jnp.concatenate([last, future.astype(leaf.dtype)], axis)


def _counts(leaf: Any) -> bool:
    """Whether an argument is an array of whole numbers."""
    known = isinstance(leaf, Array | np.ndarray)
    return known and jnp.issubdtype(leaf.dtype, jnp.integer)
