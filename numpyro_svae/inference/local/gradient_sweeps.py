# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sweeps that find the potentials of likelihoods that are not conjugate.

A sweep infers all local sites, and moves each potential a part of the way to the
gradient of the expected log likelihood there,

    current  <-  (1 - rate) current + rate goal,

which is a natural-gradient step of its datum's bound. A step that makes this bound
fall is not taken, and its rate is halved; after one that is taken it is doubled. The
bound of a datum never falls, so that no start is too bad.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.cubature import Cubature
from numpyro_svae.inference.local.datum_bounds import data_of, sending
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.gradient_messages import (
    Moments,
    expected_values,
    message_of,
    moments_of,
    narrowing,
    remains,
)
from numpyro_svae.inference.local.groups import infer_locals
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["Sweeps"]

_FIRST_RATE = 0.5
_SHORTEST = 1e-8  # rate at which a datum is given up: no step makes its bound rise
_TIGHTER = (0.0, 9.0, 99.0, 999.0)  # what starts add to prior precisions, times these

Potentials = dict[str, GaussianPotential]


class _Point(NamedTuple):
    """Potentials, with what is known there.

    :param current: the potentials.
    :param goal: where the messages would take them.
    :param bound: by datum, of each group.
    :param left: what the bound may still rise, in units of the tolerance, by datum of
        each group.
    """

    current: Potentials
    goal: Potentials
    bound: tuple[Array, ...]
    left: tuple[Array, ...]


class _State(NamedTuple):
    point: _Point
    rates: tuple[Array, ...]
    sweeps: Array


class Sweeps:
    """The sweeps of one program.

    :param factors: the factors.
    :param likelihoods: the log likelihoods of the program.
    :param potentials: what the recognition function says of other sites.
    :param mean_field: whether coupled sites are made independent under the guide.
    :param options: how many sweeps there are, and when they end.
    :param rule: how expectations are taken.
    """

    def __init__(
        self,
        factors: ExpectedFactors,
        likelihoods: Likelihoods,
        potentials: dict[str, Any],
        mean_field: bool,
        options: FixedPoint,
        rule: Cubature,
    ) -> None:
        self.factors, self.likelihoods = factors, likelihoods
        self.potentials, self.mean_field = potentials, mean_field
        self.options, self.rule = options, rule
        self.senders = sending(factors)
        self.data = data_of(factors, self.senders)

    def find(self) -> tuple[Potentials, dict[str, Convergence]]:
        """The potentials at which the sweeps end, and how they ended, by site."""
        if not self.senders:
            return {}, {}
        start = self._start()
        rates = tuple(jnp.full_like(bound, _FIRST_RATE) for bound in start.bound)
        state = _State(start, rates, jnp.zeros((), jnp.int32))
        state = lax.while_loop(self._goes_on, self._sweep, state)
        ended: dict[str, Convergence] = {}
        for datum, left in zip(self.data, state.point.left):
            residual = jnp.max(left, initial=0.0)
            found = Convergence(state.sweeps, residual)
            ended |= dict.fromkeys(datum.vectors, found)
        return state.point.current, ended

    # sweeps

    def _goes_on(self, state: _State) -> Array:
        pairs = zip(state.point.left, state.rates)
        moves = [jnp.any(~(left <= 1.0) & (r > _SHORTEST)) for left, r in pairs]
        return jnp.stack(moves).any() & (state.sweeps < self.options.max_sweeps)

    def _sweep(self, state: _State) -> _State:
        point = state.point
        current = {}
        for datum, rate in zip(self.data, state.rates):
            for name in datum.vectors:
                part = partial(_between, datum.at_positions(self.factors, name, rate))
                current[name] = jax.tree.map(
                    part, point.current[name], point.goal[name]
                )
        found = self._look(current)
        takes = tuple(map(_is_better, found.bound, found.left, point.bound, point.left))
        kept = self._choose(takes, found, point)
        rates = tuple(
            jnp.where(take, jnp.minimum(1.0, 2.0 * rate), 0.5 * rate)
            for take, rate in zip(takes, state.rates)
        )
        return _State(kept, rates, state.sweeps + 1)

    def _choose(self, takes: tuple[Array, ...], new: _Point, old: _Point) -> _Point:
        """What is known at some potentials, by datum at the new or at the old ones."""
        current, goal = {}, {}
        for datum, take in zip(self.data, takes):
            for name in datum.vectors:
                chosen = partial(_where, datum.at_positions(self.factors, name, take))
                current[name] = jax.tree.map(
                    chosen, new.current[name], old.current[name]
                )
                goal[name] = jax.tree.map(chosen, new.goal[name], old.goal[name])
        bound, left = (
            tuple(map(jnp.where, takes, *pair))
            for pair in ((new.bound, old.bound), (new.left, old.left))
        )
        return _Point(current, goal, bound, left)

    def _look(self, current: Potentials) -> _Point:
        """Infer the local sites, and send them messages."""
        local = self._infer(current)
        goal, left, terms = dict[str, Any](), dict[str, Array](), dict[str, Array]()
        for name, senders in self.senders.items():
            extent = self.factors.extent(name)
            moments = moments_of(local.marginals[name], extent.positions)
            found, gradient = self._expected(name, senders, moments)
            message = message_of(moments, gradient)
            if extent.mask is not None:
                message = message.mask(extent.mask)
            far = remains(moments, current[name], message)
            if extent.mask is not None:
                far = jnp.where(extent.mask, far, 0.0)
            usable = jnp.isfinite(far)[..., None]
            goal[name] = GaussianPotential(
                jnp.where(usable, message.info_vector, current[name].info_vector),
                jnp.where(
                    usable[..., None], message.precision, current[name].precision
                ),
            )
            far = jnp.where(jnp.isfinite(far), far, jnp.inf)
            far = far**2 / self._tolerance(far.dtype)
            left[name] = jnp.max(far, tuple(range(far.ndim - extent.extra, far.ndim)))
            terms |= found
        bound = tuple(datum.bound(self.factors, local, terms) for datum in self.data)
        bound = tuple(jnp.where(jnp.isnan(b), -jnp.inf, b) for b in bound)
        ends = tuple(datum.largest(left) for datum in self.data)
        return _Point(current, goal, bound, ends)

    def _tolerance(self, dtype: Any) -> float:
        """Of the square of a distance, which is about what a bound can still rise."""
        if self.options.tolerance is not None:
            return self.options.tolerance
        return 1e-7 if dtype == jnp.float64 else 1e-5

    def _infer(self, current: Potentials) -> LocalPosterior:
        recognised = {**self.potentials, **current}
        return infer_locals(self.factors, recognised, self.mean_field, self.options)

    def _expected(
        self, name: str, senders: tuple[str, ...], moments: Moments
    ) -> tuple[dict[str, Array], Moments]:
        """Expected log likelihoods, and the gradient of their sum.

        A message counts as often as what sends it does, beside its vector.
        """
        own = self.factors.extent(name).scale

        def total(moments: Moments) -> tuple[Array, dict[str, Array]]:
            found = self.expected(name, senders, moments)
            shares = (
                jnp.sum(value * (self.factors.site(sender).scale / own))
                for sender, value in found.items()
            )
            return sum(shares, jnp.zeros(())), found

        gradient, found = jax.grad(total, has_aux=True)(moments)
        return found, gradient

    def expected(
        self, name: str, senders: tuple[str, ...], moments: Moments
    ) -> dict[str, Array]:
        """Expected log likelihoods, per entry of the batch of each observed site.

        :param name: the vector.
        :param senders: the observed sites.
        :param moments: of the vector.
        """

        def values_at(value: Array) -> dict[str, Array]:
            return self.likelihoods.at(senders, name, value)

        return expected_values(values_at, moments, self.rule)

    # starts

    def _start(self) -> _Point:
        """The best start of several, by datum: the prior, or the prior made narrow.

        Where the prior is wide its expectations may overflow.
        """
        local = self._infer({name: self._nothing(name) for name in self.senders})

        def at(tighter: Array) -> _Point:
            current = {}
            for name in self.senders:
                moments = moments_of(local.marginals[name], self._positions(name))
                current[name] = narrowing(moments, tighter)
            return self._look(current)

        points = lax.map(at, jnp.asarray(_TIGHTER))
        best, *others = (
            jax.tree.map(itemgetter(i), points) for i in range(len(_TIGHTER))
        )
        for other in others:
            takes = tuple(map(jnp.greater, other.bound, best.bound))
            best = self._choose(takes, other, best)
        return best

    def _positions(self, name: str) -> tuple[int, ...]:
        return self.factors.extent(name).positions

    def _nothing(self, name: str) -> GaussianPotential:
        zeros = jnp.zeros((*self._positions(name), self.factors.local(name).size))
        return GaussianPotential(zeros, zeros)


def _is_better(bound: Array, left: Array, before: Array, left_before: Array) -> Array:
    """Whether a bound has risen, or is the same as far as can be seen and closer."""
    slack = _rounding(before)
    same = (jnp.abs(bound - before) <= slack) & (left <= left_before)
    return (bound > before + slack) | same


def _rounding(bound: Array) -> Array:
    size = 1.0 + jnp.abs(jnp.where(jnp.isfinite(bound), bound, 0.0))
    return 64 * jnp.finfo(bound.dtype).eps * size


def _between(share: Array, old: Array, new: Array) -> Array:
    share = jnp.expand_dims(share, tuple(range(share.ndim, old.ndim)))
    return (1 - share) * old + share * new


def _where(take: Array, new: Array, old: Array) -> Array:
    return jnp.where(jnp.expand_dims(take, tuple(range(take.ndim, old.ndim))), new, old)
