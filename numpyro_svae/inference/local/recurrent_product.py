# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The best product of a group in which states hear of the vectors before them.

Given the vectors, the discrete sites are inferred exactly. What is left is a bound as a
function of the posteriors of the vectors. These are given by the probabilities that
average their dynamics and by the potentials of the factors that are not conjugate, both
of which have goals at each posterior. A step towards the goals,

    current  <-  (1 - rate) current + rate goal,

is a natural-gradient step up this bound. It is not taken by the data whose bound it
makes fall, and their rates are halved, as in :mod:`.sweep_loop`. It is only so while
the factors have their full weight: before, they are eased in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import (
    DiscreteBelief,
    StateBelief,
    expected_potential,
)
from numpyro_svae.inference.local.datum_bounds import datum_of
from numpyro_svae.inference.local.fixed_point import FixedPoint, Solution
from numpyro_svae.inference.local.lanes import Lanes, Point, Seen
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.product import Logits, Product
from numpyro_svae.inference.local.product_belief import ProductBelief
from numpyro_svae.inference.local.recurrence import Recurrence, moments_of_state
from numpyro_svae.inference.local.sweep_progress import Progress, is_better
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import per_entry

__all__ = ["infer_recurrent"]

_TEMPERED_STEP = 0.5  # share of a step that is taken while factors are eased in


class _State(NamedTuple):
    point: Point
    seen: Seen
    progress: Progress
    left: Array
    sweeps: Array


class _Found(NamedTuple):
    """The sites at a point, and what they are told there."""

    discrete: dict[str, DiscreteBelief]
    states: dict[str, StateBelief]
    logits: Logits
    rows: dict[str, Array]
    told: dict[str, GaussianPotential]


def infer_recurrent(
    product: Product, options: FixedPoint, posterior: LocalPosterior
) -> ProductBelief:
    """Infer the sites of a group as independent.

    No gradient flows through the ascent: the bound is stationary where it ends.

    :param product: the group.
    :param options: how long the ascent is.
    :param posterior: of all local sites; how the ascent ended is added.
    """
    held = _held(product)
    ascent = _Ascent(held, Recurrence.of(held.factors, held.group), options)
    ended = ascent.climb()
    posterior.record((*product.group.discrete, *product.group.states), ended, None)
    point, found = ended.value, ascent.at(ended.value)
    states, _ = product.infer_states(*point)
    given = Recurrence.of(product.factors, product.group).given(found.rows)
    discrete = replace(product, factors=given).infer_discrete(found.logits)
    return ProductBelief(discrete, states)


def _held(product: Product) -> Product:
    """A product without gradients."""
    factors = product.factors
    known = factors.bound, factors.moments, factors.weighted_rows
    bound, moments, rows = lax.stop_gradient(known)
    factors = replace(factors, bound=bound, moments=moments, weighted_rows=rows)
    told = lax.stop_gradient((product.messages, product.potentials))
    return Product.of(factors, product.group, *told)


@dataclass(frozen=True)
class _Ascent:
    """The ascent of one group.

    :param product: the group.
    :param recurrence: its factors that are not conjugate.
    :param options: how long it is.
    """

    product: Product
    recurrence: Recurrence
    options: FixedPoint

    @property
    def factors(self) -> ExpectedFactors:
        """The factors of the program."""
        return self.product.factors

    def climb(self) -> Solution:
        """The best point that is found."""
        point = self._start()
        moments, terms = jax.eval_shape(self._terms, self.at(point))
        lanes = Lanes(self.factors, datum_of(self.factors.bound.sites, terms))
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moments)
        bound = jnp.full(lanes.datum.shape, -jnp.inf)
        left = jnp.full_like(bound, jnp.inf)
        seen = Seen(point, bound, nothing)
        begin = Progress.at(bound, left)
        zero = jnp.zeros((), jnp.int32)

        def goes_on(state: _State) -> Array:
            moves = jnp.any(~(state.progress.remaining(state.left) <= 1.0))
            few = state.sweeps < self.options.max_sweeps + self.options.cold
            return ((state.sweeps <= self.options.tempered) | moves) & few

        step = partial(self._step, lanes)
        begun = _State(point, seen, begin, left, zero)
        state = lax.while_loop(goes_on, step, begun)
        residual = jnp.max(state.progress.remaining(state.left), initial=0.0)
        return Solution(state.point, state.sweeps, residual)

    def _start(self) -> Point:
        """A point at which no site has said anything to another one."""
        even = replace(self.product, factors=self.recurrence.given_nothing())
        logits = {n: jnp.zeros_like(x) for n, x in self.product.messages.items()}
        discrete = even.infer_discrete(logits)
        probs = {name: found.probs for name, found in discrete.items()}
        means = self.product.first_means(discrete)
        return Point(probs, means, self.recurrence.no_answer())

    def at(
        self, point: Point, weight: Array | float = 1.0, temper: Array | float = 1.0
    ) -> _Found:
        """Infer the vectors at a point, the discrete sites given them, and ask both.

        :param weight: of the factors that are not conjugate.
        :param temper: weight of the messages to the discrete sites.
        """
        states, statistics = self.product.infer_states(*point)
        said = self.recurrence.say(states, jnp.asarray(weight))
        given = self.recurrence.given(said.rows)
        logits, discrete = self.product.score(states, statistics, given, temper)
        told = self.recurrence.answer(said, states, discrete)
        return _Found(discrete, states, logits, said.rows, told)

    def _terms(self, found: _Found) -> tuple[dict[str, Any], LocalPosterior]:
        """Moments of the sites, and the terms of their bound."""
        belief, own = ProductBelief(found.discrete, found.states), LocalPosterior()
        belief.add_to(own, self.factors)
        moments = belief.moments
        for name, potential in self.product.potentials.items():
            if name in own.kl:
                value = expected_potential(self.factors, name, potential, moments[name])
                value = per_entry(value, self.factors.extent(name))
                own.kl[name] = own.kl[name] - value
        vectors = {name: moments_of_state(s) for name, s in found.states.items()}
        terms = LocalPosterior(kl=own.kl, expected_log_prob=own.expected_log_prob)
        return moments | vectors, terms

    def _step(self, lanes: Lanes, state: _State) -> _State:
        settled = state.sweeps > self.options.tempered
        rate = jnp.where(settled, state.progress.rate, _TEMPERED_STEP)
        point = lanes.towards(state.point, state.seen.goal, rate)
        seen = self._look(lanes, point, state.sweeps)
        far = lanes.far(state.seen.moments, seen.moments) / rate
        left = far**2 / self.options.nats_for(far.dtype)
        better = is_better(seen.bound, left, state.seen.bound, state.left)
        take = jnp.where(settled, better, seen.bound > -jnp.inf)
        point, seen = lanes.chosen(take, (point, seen), (state.point, state.seen))
        left = jnp.where(take & settled, left, state.left)
        nats = self.options.nats_for(left.dtype)
        on = state.progress.after(take, seen.bound, left, nats)
        off = Progress.at(seen.bound, left)
        progress = jax.tree.map(partial(jnp.where, settled), on, off)
        return _State(point, seen, progress, left, state.sweeps + 1)

    def _look(self, lanes: Lanes, point: Point, sweeps: Array) -> Seen:
        weight, temper = self.options.coupling(sweeps), self.options.annealing(sweeps)
        found = self.at(point, weight, temper)
        moments, terms = self._terms(found)
        bound = lanes.datum.bound(self.factors.bound.sites, terms, {})
        bound = jnp.where(jnp.isnan(bound), -jnp.inf, bound)
        probs = {name: belief.probs for name, belief in found.discrete.items()}
        means = {name: found.states[name].mean for name in point.means}
        return Seen(Point(probs, means, found.told), bound, moments)
