# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sweeps that find the messages of factors that are not conjugate.

A sweep infers all local sites, and moves each message a part of the way to its goal,

    current  <-  (1 - rate) current + rate goal,

which is a natural-gradient step of its datum's bound. A step that makes this bound
fall is not taken, and its rate is halved; after one that is taken it is doubled. The
bound of a datum never falls, so that no start is too bad. A datum has converged where
little is left of the way to its goal, or where sweeps have got it no further: at a kink
of a log likelihood there is no gradient to come to rest at.

The search for a start is in the same loop: inference is compiled once.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.local.messenger import Messenger, Point
from numpyro_svae.inference.local.posterior import Convergence
from numpyro_svae.inference.local.sweep_progress import Progress, is_better
from numpyro_svae.inference.local.sweep_starts import Search, Starts

__all__ = ["Swept", "sweep"]


class Swept(NamedTuple):
    """Where sweeps have ended.

    :param point: what is known there.
    :param begun: the bound at the start, by datum of each group.
    :param ends: how it ended, by group.
    """

    point: Point
    begun: tuple[Array, ...]
    ends: tuple[Convergence, ...]


class _State(NamedTuple):
    point: Point
    begun: tuple[Array, ...]
    progress: tuple[Progress, ...]
    sweeps: Array
    search: Search


def sweep(messenger: Messenger, starts: Starts, limits: tuple[int, ...]) -> Swept:
    """Look for a start, and sweep from there.

    :param messenger: what sends the messages.
    :param starts: where sweeps may start.
    :param limits: the most sweeps of each group of data.
    """
    point, search = starts.begin()
    progress = tuple(map(Progress.at, point.bound, point.left))
    state = _State(point, point.bound, progress, jnp.zeros((), jnp.int32), search)

    def step(state: _State) -> _State:
        searching = starts.go_on(state.search)
        current = lax.cond(
            searching,
            lambda state: starts.messages(state.search),
            lambda state: messenger.further(
                state.point, tuple(own.rate for own in state.progress)
            ),
            state,
        )
        point, moments = messenger.look(current)

        def started(state: _State) -> _State:
            best, search = starts.after(state.search, state.point, point, moments)
            progress = tuple(map(Progress.at, best.bound, best.left))
            return _State(best, best.bound, progress, state.sweeps, search)

        swept = partial(_after, messenger, limits, point)
        return lax.cond(searching, started, swept, state)

    def goes_on(state: _State) -> Array:
        return starts.go_on(state.search) | _moves(limits, state)

    state = lax.while_loop(goes_on, step, state)
    ends = []
    for own, left, limit in zip(state.progress, state.point.left, limits):
        residual = jnp.max(own.remaining(left), initial=0.0)
        ends.append(Convergence(jnp.minimum(state.sweeps, limit), residual))
    return Swept(state.point, state.begun, tuple(ends))


def _moves(limits: tuple[int, ...], state: _State) -> Array:
    """Whether some data have not converged, and may be swept further."""
    moves = [
        jnp.any(~(own.remaining(left) <= 1.0)) & (state.sweeps < limit)
        for own, left, limit in zip(state.progress, state.point.left, limits)
    ]
    return jnp.stack(moves).any()


def _after(
    messenger: Messenger, limits: tuple[int, ...], found: Point, state: _State
) -> _State:
    """A sweep, which is taken by the data whose bounds it makes better."""
    point = state.point
    better = map(is_better, found.bound, found.left, point.bound, point.left)
    takes = tuple(t & (state.sweeps < limit) for t, limit in zip(better, limits))
    point = messenger.choose(takes, found, point)
    progress = tuple(
        own.after(take, bound, left, messenger.tolerance(bound.dtype))
        for own, take, bound, left in zip(
            state.progress, takes, point.bound, point.left
        )
    )
    return _State(point, state.begun, progress, state.sweeps + 1, state.search)
