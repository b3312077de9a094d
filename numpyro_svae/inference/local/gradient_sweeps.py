# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sweeps that find the messages of factors that are not conjugate.

They are the potentials of likelihoods, and the linear steps of chains that are not
linear. A sweep infers all local sites, and moves each potential a part of the way to
the gradient of the expected log likelihood there,

    current  <-  (1 - rate) current + rate goal,

which is a natural-gradient step of its datum's bound. A step that makes this bound
fall is not taken, and its rate is halved; after one that is taken it is doubled. The
bound of a datum never falls, so that no start is too bad. A datum has converged where
little is left of the way to its goal, or where sweeps have got it no further: at a kink
of a log likelihood there is no gradient to come to rest at.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.all_sites import infer_locals
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.datum_bounds import Datum, data_of, sending
from numpyro_svae.inference.local.expectations import Expectations
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.nonlinear_chains import Chains
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.inference.local.site_messages import messages_of
from numpyro_svae.inference.local.sweep_messages import Messages, where_known
from numpyro_svae.inference.local.sweep_progress import Progress
from numpyro_svae.program.run.positions import per_scale
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["Point", "Potentials", "Sweeps"]

Potentials = dict[str, Any]


class Point(NamedTuple):
    """Messages, with what is known there.

    :param current: the messages.
    :param goal: where the messages would take them.
    :param bound: by datum, of each group.
    :param left: what the bound may still rise, in units of the tolerance, by datum of
        each group.
    """

    current: Messages
    goal: Messages
    bound: tuple[Array, ...]
    left: tuple[Array, ...]


class _State(NamedTuple):
    point: Point
    progress: tuple[Progress, ...]
    sweeps: Array


class Sweeps:
    """The sweeps of one program.

    :param factors: the factors.
    :param likelihoods: the log likelihoods of the program.
    :param potentials: what the recognition function says of sites that are not sent
        messages.
    :param mean_field: whether coupled sites are made independent under the guide.
    :param options: how many sweeps there are, and when they end.
    :param rule: how expectations are taken.
    """

    def __init__(
        self,
        factors: ExpectedFactors,
        likelihoods: Likelihoods,
        potentials: Potentials,
        mean_field: bool,
        options: FixedPoint,
        rule: Rule,
    ) -> None:
        self.factors = factors
        self.potentials, self.mean_field = potentials, mean_field
        self.options = options
        self.expectations = Expectations(factors, likelihoods, rule)
        self.senders = sending(factors)
        self.chains = Chains.of(factors, likelihoods, rule)
        alone = dict.fromkeys(self.chains.transitions, ())
        self.data = data_of(factors, alone | self.senders)

    def run(
        self, start: Point, limits: tuple[int, ...]
    ) -> tuple[Point, tuple[Convergence, ...]]:
        """Sweep from a start, and say how it ended for each group of data.

        :param start: the start.
        :param limits: the most sweeps of each group of data.
        """
        progress = tuple(map(Progress.at, start.bound, start.left))
        state = _State(start, progress, jnp.zeros((), jnp.int32))
        goes_on, sweep = partial(self._goes_on, limits), partial(self._sweep, limits)
        state = lax.while_loop(goes_on, sweep, state)
        ended = []
        for own, left, limit in zip(state.progress, state.point.left, limits):
            residual = jnp.max(own.remaining(left), initial=0.0)
            ended.append(Convergence(jnp.minimum(state.sweeps, limit), residual))
        return state.point, tuple(ended)

    # sweeps

    def _goes_on(self, limits: tuple[int, ...], state: _State) -> Array:
        moves = [
            jnp.any(~(own.remaining(left) <= 1.0)) & (state.sweeps < limit)
            for own, left, limit in zip(state.progress, state.point.left, limits)
        ]
        return jnp.stack(moves).any()

    def _sweep(self, limits: tuple[int, ...], state: _State) -> _State:
        point = state.point
        noises = {name: self.chains.noise(name) for name in self.chains.transitions}
        rates = self._at_positions(tuple(own.rate for own in state.progress))
        found = self.look(point.current.towards(point.goal, rates, noises))
        better = map(_is_better, found.bound, found.left, point.bound, point.left)
        takes = tuple(t & (state.sweeps < limit) for t, limit in zip(better, limits))
        point = self.choose(takes, found, point)
        progress = tuple(
            own.after(take, bound, left, self._tolerance(bound.dtype))
            for own, take, bound, left in zip(
                state.progress, takes, point.bound, point.left
            )
        )
        return _State(point, progress, state.sweeps + 1)

    def choose(self, takes: tuple[Array, ...], new: Point, old: Point) -> Point:
        """What is known at some messages, by datum at the new or at the old ones."""
        chosen = self._at_positions(takes)
        current, goal = (
            own.chosen(chosen, before)
            for own, before in ((new.current, old.current), (new.goal, old.goal))
        )
        bound, left = (
            tuple(map(jnp.where, takes, *pair))
            for pair in ((new.bound, old.bound), (new.left, old.left))
        )
        return Point(current, goal, bound, left)

    def _at_positions(self, values: tuple[Array, ...]) -> dict[str, Array]:
        """Values of data at the positions of the sites that are sent messages."""
        return {
            name: datum.at_positions(self.factors, name, value)
            for datum, value in zip(self.data, values)
            for name in datum.targets
        }

    def look(self, current: Messages) -> Point:
        """Infer the local sites, and send them messages.

        :param current: the messages of all sites that are sent some.
        """
        return self.look_around(current)[0]

    def look_around(self, current: Messages) -> tuple[Point, dict[str, Any]]:
        """The same, with the moments of the sites."""
        factors, local = self.factors, self.infer(current)
        moments = self.moments(local)
        terms, gradient = self._expected(moments)
        goal, left = dict[str, Any](), dict[str, Array]()
        for name in self.senders:
            extent, kind = factors.extent(name), messages_of(factors.local(name))
            message = kind.message(moments[name], gradient[name])
            if extent.mask is not None:
                message = message.mask(extent.mask)
            before = current.potentials[name]
            far = kind.remains(moments[name], before, message)
            goal[name] = where_known(far, message, before)
            left[name] = self._far(name, far)
        steps = self._steps(current, goal, local, left)
        bound = tuple(datum.bound(factors, local, terms) for datum in self.data)
        bound = tuple(jnp.where(jnp.isnan(b), -jnp.inf, b) for b in bound)
        ends = tuple(datum.largest(left) for datum in self.data)
        return Point(current, Messages(goal, steps), bound, ends), moments

    def _steps(
        self,
        current: Messages,
        goal: Potentials,
        local: LocalPosterior,
        left: dict[str, Array],
    ) -> dict[str, Any]:
        """Where the steps of chains that are not linear are sent.

        :param goal: where the potentials are sent.
        :param local: the posterior; what it is chosen for beside the divergence from
            linear steps is taken off its divergences.
        :param left: how far sites are from their goals; those of the chains are added.
        """
        linear = self.chains.linear(current.steps)
        chains = replace(self.chains, factors=linear)
        told = Messages(goal, {}).beside(self.potentials)
        steps = chains.goals(local.marginals, told)
        for name, own in steps.items():
            far = chains.remains(name, current.steps[name], own)
            steps[name] = where_known(far, own, current.steps[name])
            far = self._far(name, far)
            left[name] = jnp.maximum(left[name], far) if name in left else far
        gains = chains.gains(local.marginals, self.potentials)
        local.kl |= {name: local.kl[name] - gain for name, gain in gains.items()}
        return steps

    def _far(self, name: str, far: Array) -> Array:
        """What the bound may still rise, by entry of the batch of a site."""
        extent = self.factors.extent(name)
        if extent.mask is not None:
            far = jnp.where(extent.mask, far, 0.0)
        far = jnp.where(jnp.isfinite(far), far, jnp.inf)
        far = far**2 / self._tolerance(far.dtype)
        return jnp.max(far, tuple(range(far.ndim - extent.extra, far.ndim)))

    def moments(self, local: LocalPosterior) -> dict[str, Any]:
        """What expectations need of the sites that likelihoods depend on."""
        found = {}
        scopes = map(self.expectations.scope, self.sending)
        for name in dict.fromkeys(name for scope in scopes for name in scope):
            kind = messages_of(self.factors.local(name))
            extent = self.factors.extent(name)
            found[name] = kind.moments(local.marginals[name], extent)
        return found

    @property
    def sending(self) -> list[str]:
        """The likelihoods that send gradients."""
        return list(dict.fromkeys(s for names in self.senders.values() for s in names))

    def infer(self, current: Messages) -> LocalPosterior:
        """The posterior of the local sites."""
        factors = self.chains.linear(current.steps)
        potentials = current.beside(self.potentials)
        return infer_locals(factors, potentials, self.mean_field, self.options)

    def targets(self, datum: Datum) -> list[str]:
        """The Gaussian sites of a group of data that are sent gradients."""
        own = [name for name in datum.targets if name in self.senders]
        return [name for name in own if not self.factors.local(name).discrete]

    def _tolerance(self, dtype: Any) -> float:
        """Of the square of a distance, which is about what a bound can still rise."""
        if self.options.tolerance is not None:
            return self.options.tolerance
        return 1e-7 if dtype == jnp.float64 else 1e-5

    def _expected(
        self, moments: dict[str, Any]
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Expected log likelihoods, and the gradient of their sum.

        A message counts as often as what sends it does, beside its site.
        """

        def total(moments: dict[str, Any]) -> tuple[Array, dict[str, Array]]:
            found = self.expectations.of(self.sending, moments)
            scaled = (jnp.sum(self.factors.site(n).scale * v) for n, v in found.items())
            return sum(scaled, jnp.zeros(())), found

        gradient, found = jax.grad(total, has_aux=True)(moments)
        for name in self.senders:
            of_own = partial(per_scale, self.factors.extent(name))
            gradient[name] = jax.tree.map(of_own, gradient[name])
        return found, gradient


def _is_better(bound: Array, left: Array, before: Array, left_before: Array) -> Array:
    """Whether a bound has risen, or is the same as far as can be seen and closer."""
    slack = _rounding(before)
    same = (jnp.abs(bound - before) <= slack) & (left <= left_before)
    return (bound > before + slack) | same


def _rounding(bound: Array) -> Array:
    size = 1.0 + jnp.abs(jnp.where(jnp.isfinite(bound), bound, 0.0))
    return 64 * jnp.finfo(bound.dtype).eps * size
