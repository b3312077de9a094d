# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where sweeps of likelihoods that are not conjugate start.

They start at messages that are kept from the step before, or at what a recognition
function says. Data that have neither, or no finite bound there, start at the best of
several starts: the prior, or the prior made narrow, since where the prior is wide its
expectations may overflow.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.local.messenger import Messenger, Point, Potentials
from numpyro_svae.inference.local.site_messages import messages_of
from numpyro_svae.inference.local.sweep_messages import Messages

__all__ = ["Kept", "Search", "Starts", "messages_like"]

_TIGHTER = (0.0, 9.0, 99.0, 999.0)  # what starts add to prior precisions, times these


class Kept(NamedTuple):
    """Messages that earlier sweeps ended at.

    :param messages: the messages.
    :param known: whether there were earlier sweeps.
    """

    messages: Messages
    known: Array


class Search(NamedTuple):
    """How a search for a start stands.

    :param turn: 0 for first messages, then one for each of ``_TIGHTER``.
    :param settled: data that stay at their first messages.
    :param cold: messages that the prior is known by.
    :param narrow: what adds its own precision to a prior.
    """

    turn: Array
    settled: tuple[Array, ...]
    cold: Messages
    narrow: Potentials


class Starts:
    """Where the sweeps of a program may start.

    :param messenger: what sends the messages.
    :param given: potentials that vectors start at, of some of them.
    :param kept: where earlier sweeps ended, if no potentials are given.
    """

    def __init__(
        self, messenger: Messenger, given: Potentials, kept: Kept | None = None
    ) -> None:
        self.messenger, self._kept = messenger, kept
        vectors = {
            name for datum in messenger.data for name in messenger.targets(datum)
        }
        whole = vectors <= given.keys()
        self._first = dict(given)
        self._given: Potentials = {} if whole else dict(given)
        self._has_first = kept is not None or (bool(vectors) and whole)
        # Steps of chains start where nothing is added to a prior, and nowhere else.
        narrowed = bool(messenger.senders.keys() - self._given.keys())
        self._last_turn = len(_TIGHTER) if narrowed else 1

    def begin(self) -> tuple[Point, Search]:
        """A point of which nothing is known, and the search before its first turn."""
        messenger = self.messenger
        kept = self._kept
        first = self._like(self._first) if kept is None else kept.messages
        shapes = [datum.shape for datum in messenger.data]
        nowhere = [tuple(jnp.full(s, x) for s in shapes) for x in (-jnp.inf, jnp.inf)]
        turn = jnp.array(0 if self._has_first else 1)
        settled = tuple(jnp.zeros(s, bool) for s in shapes)
        search = Search(turn, settled, first, _nothing(messenger))
        return Point(first, first, *nowhere), search

    def go_on(self, search: Search) -> Array:
        """Whether the search has another turn."""
        all_settled = jnp.stack([jnp.all(part) for part in search.settled]).all()
        needed = (search.turn == 0) | ~all_settled
        return needed & (search.turn <= self._last_turn)

    def messages(self, search: Search) -> Messages:
        """The messages whose turn it is."""
        tighter = jnp.array((0.0, *_TIGHTER))[search.turn]
        potentials = dict(search.cold.potentials)
        for name in self.messenger.senders.keys() - self._given.keys():
            add = partial(_plus, tighter)
            own, narrow = potentials[name], search.narrow[name]
            potentials[name] = jax.tree.map(add, own, narrow)
        return Messages(potentials, search.cold.steps)

    def after(
        self, search: Search, best: Point, point: Point, moments: dict[str, Any]
    ) -> tuple[Point, Search]:
        """The best start so far, and the search before its next turn.

        :param best: the best one before.
        :param point: what is known at the messages whose turn it was.
        :param moments: those of the sites there.
        """
        turn, narrow, cold = search.turn, {}, search.cold
        for name, own in search.narrow.items():
            new = messages_of(self.messenger.factors.local(name)).narrowing(
                moments[name]
            )
            narrow[name] = jax.tree.map(partial(jnp.where, turn == 1), new, own)
        first = turn == 0 if self._kept is None else (turn == 0) & self._kept.known
        takes, settled = [], []
        for bound, before, stays in zip(point.bound, best.bound, search.settled):
            takes.append(~stays & ((turn <= 1) | (bound > before)))
            settled.append(stays | (first & jnp.isfinite(bound)))
        best = self.messenger.choose(tuple(takes), point, best)
        after = Search(turn + 1, tuple(settled), cold, narrow)
        if self._has_first:
            renewed = partial(self._like, self._given)
            needed = (turn == 0) & self.go_on(after)
            after = after._replace(cold=lax.cond(needed, renewed, lambda: cold))
        return best, after

    def _like(self, given: Potentials) -> Messages:
        return messages_like(self.messenger, given)


def messages_like(messenger: Messenger, given: Potentials) -> Messages:
    """The messages that a prior is known by: those that say nothing, or are given.

    :param messenger: what sends the messages.
    :param given: potentials of some sites.
    """
    steps = messenger.chains.start(messenger.potentials | given)
    return Messages(_nothing(messenger) | given, steps)


def _nothing(messenger: Messenger) -> Potentials:
    factors, found = messenger.factors, {}
    for name in messenger.senders:
        local = factors.local(name)
        found[name] = messages_of(local).nothing(local, factors.extent(name))
    return found


def _plus(share: Array, own: Array, more: Array) -> Array:
    return own + share.astype(own.dtype) * more
