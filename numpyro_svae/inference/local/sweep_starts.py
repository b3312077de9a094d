# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where sweeps of likelihoods that are not conjugate start.

They start at messages that are kept from the step before, or at what a recognition
function says. Data that have neither, or no finite bound there, start at the best of
several starts: the prior, or the prior made narrow, since where the prior is wide its
expectations may overflow. One loop looks at all of them, so that one is compiled.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.local.gradient_sweeps import Point, Potentials, Sweeps
from numpyro_svae.inference.local.site_messages import messages_of
from numpyro_svae.inference.local.sweep_messages import Messages

__all__ = ["Kept", "messages_like", "start_of"]

_TIGHTER = (0.0, 9.0, 99.0, 999.0)  # what starts add to prior precisions, times these


class Kept(NamedTuple):
    """Messages that earlier sweeps ended at.

    :param messages: the messages.
    :param known: whether there were earlier sweeps.
    """

    messages: Messages
    known: Array


class _Search(NamedTuple):
    """How a search for a start stands.

    :param turn: 0 for first messages, then one for each of ``_TIGHTER``.
    :param best: the best start so far.
    :param settled: data that stay at their first messages.
    :param cold: messages that the prior is known by.
    :param narrow: what adds its own precision to a prior.
    """

    turn: Array
    best: Point
    settled: tuple[Array, ...]
    cold: Messages
    narrow: Potentials


def start_of(sweeps: Sweeps, given: Potentials, kept: Kept | None = None) -> Point:
    """The start of sweeps.

    :param sweeps: the sweeps.
    :param given: potentials that vectors start at, of some of them.
    :param kept: where earlier sweeps ended, if no potentials are given.
    """
    vectors = {name for datum in sweeps.data for name in sweeps.targets(datum)}
    first, known = kept or (messages_like(sweeps, given), jnp.array(True))
    told = bool(vectors) and vectors <= given.keys()
    is_first = told or kept is not None
    if vectors <= given.keys():
        given = {}
    shapes = [datum.shape for datum in sweeps.data]
    nowhere = [tuple(jnp.full(s, x) for s in shapes) for x in (-jnp.inf, jnp.inf)]
    search = _Search(
        jnp.where(known & is_first, 0, 1),
        Point(first, first, *nowhere),
        tuple(jnp.zeros(s, bool) for s in shapes),
        first,
        _nothing(sweeps),
    )
    look = partial(_look, sweeps, given, first if is_first else None)
    return lax.while_loop(_goes_on, look, search).best


def messages_like(sweeps: Sweeps, given: Potentials) -> Messages:
    """The messages that a prior is known by: those that say nothing, or are given.

    :param sweeps: the sweeps.
    :param given: potentials of some sites.
    """
    steps = sweeps.chains.start(sweeps.potentials | given)
    return Messages(_nothing(sweeps) | given, steps)


def _nothing(sweeps: Sweeps) -> Potentials:
    factors, found = sweeps.factors, {}
    for name in sweeps.senders:
        local = factors.local(name)
        found[name] = messages_of(local).nothing(local, factors.extent(name))
    return found


def _goes_on(search: _Search) -> Array:
    all_settled = jnp.stack([jnp.all(part) for part in search.settled]).all()
    needed = (search.turn == 0) | ~all_settled
    return needed & (search.turn <= len(_TIGHTER))


def _look(
    sweeps: Sweeps, given: Potentials, first: Messages | None, search: _Search
) -> _Search:
    """Look at the messages whose turn it is.

    :param given: potentials of some sites, which all starts have.
    :param first: messages to look at first, if there are any.
    """
    turn, cold = search.turn, search.cold
    tighter = jnp.array((0.0, *_TIGHTER))[turn]
    if first is not None:
        renewed = partial(messages_like, sweeps, given)
        cold = lax.cond(turn == 1, renewed, lambda: cold)
    potentials = dict(cold.potentials)
    for name in sweeps.senders.keys() - given.keys():
        add = partial(_plus, tighter)
        potentials[name] = jax.tree.map(add, potentials[name], search.narrow[name])
    at = Messages(potentials, cold.steps)
    if first is not None:
        at = jax.tree.map(partial(jnp.where, turn == 0), first, at)
    point, moments = sweeps.look_around(at)
    narrow = {}
    for name, own in search.narrow.items():
        new = messages_of(sweeps.factors.local(name)).narrowing(moments[name])
        narrow[name] = jax.tree.map(partial(jnp.where, turn == 1), new, own)
    takes, settled = [], []
    for bound, before, stays in zip(point.bound, search.best.bound, search.settled):
        takes.append(~stays & ((turn <= 1) | (bound > before)))
        settled.append(stays | ((turn == 0) & jnp.isfinite(bound)))
    best = sweeps.choose(tuple(takes), point, search.best)
    return _Search(turn + 1, best, tuple(settled), cold, narrow)


def _plus(share: Array, own: Array, more: Array) -> Array:
    return own + share.astype(own.dtype) * more
