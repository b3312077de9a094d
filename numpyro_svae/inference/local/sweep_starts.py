# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where sweeps of likelihoods that are not conjugate start.

They start at messages that are kept from the step before, or at what a recognition
function says. Data that have neither, or no finite bound there, start at the best of
several starts: the prior, or the prior made narrow, since where the prior is wide its
expectations may overflow.

No mean is a saddle point of vectors that are multiplied, as in matrix factorisation,
and sweeps do not leave it. Their narrow starts are off the mean of the prior, and the
best of these is taken, whatever the bound of the prior is.

The prior of a chain that is not linear may run away, step by step, whatever its first
state is. Its starts are a path that rests where it begins, and filters that are told
what the likelihoods say at the start before.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.local.gradient_messages import off_its_mean
from numpyro_svae.inference.local.messenger import Messenger, Point, Potentials
from numpyro_svae.inference.local.site_messages import messages_of
from numpyro_svae.inference.local.sweep_messages import Messages

__all__ = ["Kept", "Search", "Starts", "messages_like"]

_TIGHTER = (0.0, 9.0, 99.0, 999.0)  # what starts add to prior precisions, times these


class _Turn(NamedTuple):
    """A start, as vectors and as chains that are not linear have it.

    Numbers, or arrays of those of all turns.

    :param tighter: what is added to the precisions of vectors, times those of a prior.
    :param filtered: whether chains are filtered, given what was heard at the last
        start; otherwise they rest.
    :param wide: whether chains that rest spread as their first states do.
    """

    tighter: Any
    filtered: Any
    wide: Any


_FIRST = _Turn(0.0, True, False)
_ALONE = tuple(_Turn(tighter, False, False) for tighter in _TIGHTER)
_WITH_CHAINS = (
    _Turn(0.0, False, True),
    _Turn(9.0, True, True),
    _Turn(99.0, True, True),
    _Turn(999.0, False, False),
    _Turn(999.0, True, False),
)


class Kept(NamedTuple):
    """Messages that earlier sweeps ended at.

    :param messages: the messages.
    :param known: whether there were earlier sweeps.
    """

    messages: Messages
    known: Array


class Search(NamedTuple):
    """How a search for a start stands.

    :param turn: 0 for first messages, then one for each of the others.
    :param settled: data that stay at their first messages.
    :param narrow: what adds its own precision to a prior.
    :param heard: what likelihoods say at the last start.
    """

    turn: Array
    settled: tuple[Array, ...]
    narrow: Potentials
    heard: Potentials


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
        groups = [set(messenger.targets(datum)) for datum in messenger.data]
        vectors = set().union(*groups)
        self._products = messenger.factors.structure.products
        self._at_saddle = [not own.isdisjoint(self._products) for own in groups]
        whole = vectors <= given.keys()
        self._first = dict(given)
        self._given: Potentials = {} if whole else dict(given)
        self._has_first = kept is not None or whole
        others = _WITH_CHAINS if messenger.chains.transitions else _ALONE
        self._turns = (_FIRST, *others)

    def begin(self) -> tuple[Point, Search]:
        """A point of which nothing is known, and the search before its first turn."""
        messenger = self.messenger
        shape = jax.eval_shape(partial(messages_like, messenger, self._first))
        first = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        shapes = [datum.shape for datum in messenger.data]
        nowhere = [tuple(jnp.full(s, x) for s in shapes) for x in (-jnp.inf, jnp.inf)]
        turn = jnp.array(0 if self._has_first else 1)
        settled = tuple(jnp.zeros(s, bool) for s in shapes)
        nothing = _nothing(messenger)
        return Point(first, first, *nowhere), Search(turn, settled, nothing, nothing)

    def go_on(self, search: Search) -> Array:
        """Whether the search has another turn."""
        all_settled = jnp.stack([jnp.all(part) for part in search.settled]).all()
        needed = (search.turn == 0) | ~all_settled
        return needed & (search.turn < len(self._turns))

    def messages(self, search: Search) -> Messages:
        """The messages whose turn it is."""
        if self._kept is None:
            return self._anew(search)
        known = self._kept.messages
        return lax.cond(search.turn == 0, lambda: known, partial(self._anew, search))

    def _anew(self, search: Search) -> Messages:
        """Those of a turn that are not kept."""
        messenger, first = self.messenger, search.turn == 0
        columns = map(jnp.array, zip(*self._turns))
        turn, chains = _Turn(*(x[search.turn] for x in columns)), messenger.chains
        potentials = _nothing(messenger) | self._given
        for name in messenger.senders.keys() - self._given.keys():
            if name in chains.transitions:
                told = partial(jnp.where, turn.filtered & ~first)
                more = jax.tree.map(told, search.heard[name], potentials[name])
            else:
                add = partial(_plus, turn.tighter)
                more = jax.tree.map(add, potentials[name], search.narrow[name])
            if name in self._first:
                more = jax.tree.map(partial(jnp.where, first), self._first[name], more)
            potentials[name] = more
        steps = lax.cond(
            turn.filtered,
            lambda: chains.start(messenger.potentials | potentials),
            lambda: chains.at_rest(turn.wide),
        )
        return Messages(potentials, steps)

    def after(
        self, search: Search, best: Point, point: Point, moments: dict[str, Any]
    ) -> tuple[Point, Search]:
        """The best start so far, and the search before its next turn.

        :param best: the best one before.
        :param point: what is known at the messages whose turn it was.
        :param moments: those of the sites there.
        """
        turn, narrow = search.turn, {}
        for name, own in search.narrow.items():
            kind = messages_of(self.messenger.factors.local(name))
            new = kind.narrowing(moments[name])
            if name in self._products:
                new = off_its_mean(moments[name], new, self._products[name])
            narrow[name] = jax.tree.map(partial(jnp.where, turn == 1), new, own)
        first = turn == 0 if self._kept is None else (turn == 0) & self._kept.known
        takes, settled = [], []
        each = zip(point.bound, best.bound, search.settled, self._at_saddle)
        for bound, before, stays, at_saddle in each:
            better = (turn <= (2 if at_saddle else 1)) | (bound > before)
            takes.append(~stays & better)
            settled.append(stays | (first & jnp.isfinite(bound)))
        best = self.messenger.choose(tuple(takes), point, best)
        return best, Search(turn + 1, tuple(settled), narrow, point.goal.potentials)


def messages_like(messenger: Messenger, given: Potentials) -> Messages:
    """The messages that a prior is known by: those that say nothing, or are given.

    :param messenger: what sends the messages.
    :param given: potentials of some sites.
    """
    steps = messenger.chains.at_rest(jnp.array(True))
    return Messages(_nothing(messenger) | given, steps)


def _nothing(messenger: Messenger) -> Potentials:
    factors, found = messenger.factors, {}
    for name in messenger.senders:
        local = factors.local(name)
        found[name] = messages_of(local).nothing(local, factors.extent(name))
    return found


def _plus(share: Array, own: Array, more: Array) -> Array:
    return own + share.astype(own.dtype) * more
