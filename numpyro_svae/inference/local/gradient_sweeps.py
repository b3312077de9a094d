# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sweeps that find the messages of factors that are not conjugate.

They are the potentials of likelihoods, and the linear steps of chains that are not
linear. A sweep infers all local sites, and moves each potential a part of the way to
the gradient of the expected log likelihood there,

    said  <-  (1 - rate) said + rate goal,

which is a natural-gradient step of its datum's bound. A step that makes this bound
fall is not taken, and its rate is halved; after one that is taken it is doubled. The
bound of a datum never falls, so that no start is too bad.
"""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.factors.evidence import Evidence
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
from numpyro_svae.inference.local.nonlinear_chains import Chains
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.inference.local.sweep_messages import Said, where_known
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["Sweeps"]

_FIRST_RATE = 0.5
_SHORTEST = 1e-8  # rate at which a datum is given up: no step makes its bound rise
_TIGHTER = (0.0, 9.0, 99.0, 999.0)  # what starts add to prior precisions, times these


class _Place(NamedTuple):
    """Messages, with what is known there.

    :param said: the messages.
    :param goal: where the messages would take them.
    :param bound: by datum, of each group.
    :param left: what the bound may still rise, in units of the tolerance, by datum of
        each group.
    """

    said: Said
    goal: Said
    bound: tuple[Array, ...]
    left: tuple[Array, ...]


class _State(NamedTuple):
    place: _Place
    rates: tuple[Array, ...]
    sweeps: Array


class Sweeps:
    """The sweeps of one program.

    :param evidence: the factors.
    :param likelihoods: the log likelihoods of the program.
    :param potentials: what the recognition function says of other sites.
    :param mean_field: whether coupled sites are made independent under the guide.
    :param options: how many sweeps there are, and when they end.
    :param rule: how expectations are taken.
    """

    def __init__(
        self,
        evidence: Evidence,
        likelihoods: Likelihoods,
        potentials: dict[str, Any],
        mean_field: bool,
        options: FixedPoint,
        rule: Cubature,
    ) -> None:
        self.evidence, self.likelihoods = evidence, likelihoods
        self.potentials, self.mean_field = potentials, mean_field
        self.options, self.rule = options, rule
        self.senders = sending(evidence)
        self.chains = Chains.of(evidence, likelihoods, rule)
        alone = dict.fromkeys(self.chains.transitions, ())
        self.data = data_of(evidence, alone | self.senders)

    def find(self) -> tuple[Said, dict[str, Convergence]]:
        """The messages at which the sweeps end, and how they ended, by site."""
        if not self.data:
            return Said({}, {}), {}
        start = self._start()
        rates = tuple(jnp.full_like(bound, _FIRST_RATE) for bound in start.bound)
        state = _State(start, rates, jnp.zeros((), jnp.int32))
        state = lax.while_loop(self._goes_on, self._sweep, state)
        ended: dict[str, Convergence] = {}
        for datum, left in zip(self.data, state.place.left):
            residual = jnp.max(left, initial=0.0)
            found = Convergence(state.sweeps, residual)
            ended |= dict.fromkeys(datum.vectors, found)
        return state.place.said, ended

    # sweeps

    def _goes_on(self, state: _State) -> Array:
        pairs = zip(state.place.left, state.rates)
        moves = [jnp.any(~(left <= 1.0) & (r > _SHORTEST)) for left, r in pairs]
        return jnp.stack(moves).any() & (state.sweeps < self.options.max_sweeps)

    def _sweep(self, state: _State) -> _State:
        place = state.place
        noises = {name: self.chains.noise(name) for name in self.chains.transitions}
        rates = self._at_positions(state.rates)
        found = self._look(place.said.towards(place.goal, rates, noises))
        takes = tuple(map(_is_better, found.bound, found.left, place.bound, place.left))
        kept = self._choose(takes, found, place)
        moved = tuple(
            jnp.where(take, jnp.minimum(1.0, 2.0 * rate), 0.5 * rate)
            for take, rate in zip(takes, state.rates)
        )
        return _State(kept, moved, state.sweeps + 1)

    def _choose(self, takes: tuple[Array, ...], new: _Place, old: _Place) -> _Place:
        """What is known at some potentials, by datum at the new or at the old ones."""
        chosen = self._at_positions(takes)
        said, goal = (
            own.chosen(chosen, before)
            for own, before in ((new.said, old.said), (new.goal, old.goal))
        )
        bound, left = (
            tuple(map(jnp.where, takes, *pair))
            for pair in ((new.bound, old.bound), (new.left, old.left))
        )
        return _Place(said, goal, bound, left)

    def _at_positions(self, values: tuple[Array, ...]) -> dict[str, Array]:
        """Values of data at the positions of the vectors."""
        return {
            name: datum.at_positions(self.evidence, name, value)
            for datum, value in zip(self.data, values)
            for name in datum.vectors
        }

    def _look(self, said: Said) -> _Place:
        """Infer the local sites, and send them messages."""
        potentials = said.beside(self.potentials)
        chains = replace(self.chains, evidence=self.chains.linear(said.steps))
        local = self._infer(chains.evidence, potentials)
        goal, left, terms = dict[str, Any](), dict[str, Array](), dict[str, Array]()
        for name, senders in self.senders.items():
            goal[name], left[name], found = self._to_vector(
                name, senders, local.marginals[name], said.potentials[name]
            )
            terms |= found
        steps = chains.goals(local.marginals, Said(goal, {}).beside(self.potentials))
        for name, own in steps.items():
            far = chains.remains(name, said.steps[name], own)
            steps[name] = where_known(far, own, said.steps[name])
            far = self._far(name, far)
            left[name] = jnp.maximum(left[name], far) if name in left else far
        gains = chains.gains(local.marginals, self.potentials)
        local.kl |= {name: local.kl[name] - gain for name, gain in gains.items()}
        bound = tuple(datum.bound(self.evidence, local, terms) for datum in self.data)
        bound = tuple(jnp.where(jnp.isnan(b), -jnp.inf, b) for b in bound)
        ends = tuple(datum.largest(left) for datum in self.data)
        return _Place(said, Said(goal, steps), bound, ends)

    def _to_vector(
        self,
        name: str,
        senders: tuple[str, ...],
        marginal: Any,
        said: GaussianPotential,
    ) -> tuple[GaussianPotential, Array, dict[str, Array]]:
        """Where a potential is sent, how far it is from there, and its likelihoods."""
        place = self.evidence.place(name)
        moments = moments_of(marginal, place.positions)
        found, gradient = self._expected(name, senders, moments)
        message = message_of(moments, gradient)
        if place.mask is not None:
            message = message.mask(place.mask)
        far = remains(moments, said, message)
        return where_known(far, message, said), self._far(name, far), found

    def _far(self, name: str, far: Array) -> Array:
        """What the bound may still rise, by entry of the batch of a vector."""
        place = self.evidence.place(name)
        if place.mask is not None:
            far = jnp.where(place.mask, far, 0.0)
        far = jnp.where(jnp.isfinite(far), far, jnp.inf)
        far = far**2 / self._tolerance(far.dtype)
        return jnp.max(far, tuple(range(far.ndim - place.extra, far.ndim)))

    def _tolerance(self, dtype: Any) -> float:
        """Of the square of a distance, which is about what a bound can still rise."""
        if self.options.tolerance is not None:
            return self.options.tolerance
        return 1e-7 if dtype == jnp.float64 else 1e-5

    def _infer(self, evidence: Evidence, said: dict[str, Any]) -> LocalPosterior:
        return infer_locals(evidence, said, self.mean_field, self.options)

    def _expected(
        self, name: str, senders: tuple[str, ...], moments: Moments
    ) -> tuple[dict[str, Array], Moments]:
        """Expected log likelihoods, and the gradient of their sum.

        A message counts as often as what sends it does, beside its vector.
        """
        own = self.evidence.place(name).scale

        def total(moments: Moments) -> tuple[Array, dict[str, Array]]:
            found = self.expected(name, senders, moments)
            shares = (
                jnp.sum(value * (self.evidence.site(sender).scale / own))
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

    def _start(self) -> _Place:
        """The best start of several, by datum: the prior, or the prior made narrow.

        Where the prior is wide its expectations may overflow.
        """
        steps = self.chains.start(self.potentials)
        if not self.senders:
            return self._look(Said({}, steps))
        nothing = {name: self._nothing(name) for name in self.senders}
        told = Said(nothing, steps).beside(self.potentials)
        local = self._infer(self.chains.linear(steps), told)

        def at(tighter: Array) -> _Place:
            said = {}
            for name in self.senders:
                moments = moments_of(local.marginals[name], self._positions(name))
                said[name] = narrowing(moments, tighter)
            return self._look(Said(said, steps))

        places = lax.map(at, jnp.asarray(_TIGHTER))
        best, *others = (
            jax.tree.map(itemgetter(i), places) for i in range(len(_TIGHTER))
        )
        for other in others:
            takes = tuple(map(jnp.greater, other.bound, best.bound))
            best = self._choose(takes, other, best)
        return best

    def _positions(self, name: str) -> tuple[int, ...]:
        return self.evidence.place(name).positions

    def _nothing(self, name: str) -> GaussianPotential:
        zeros = jnp.zeros((*self._positions(name), self.evidence.local(name).size))
        return GaussianPotential(zeros, zeros)


def _is_better(bound: Array, left: Array, before: Array, left_before: Array) -> Array:
    """Whether a bound has risen, or is the same as far as can be seen and closer."""
    slack = _rounding(before)
    same = (jnp.abs(bound - before) <= slack) & (left <= left_before)
    return (bound > before + slack) | same


def _rounding(bound: Array) -> Array:
    size = 1.0 + jnp.abs(jnp.where(jnp.isfinite(bound), bound, 0.0))
    return 64 * jnp.finfo(bound.dtype).eps * size
