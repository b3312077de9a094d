# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is known at messages of factors that are not conjugate, and where these lead.

They are the potentials of likelihoods, and the linear steps of chains that are not
linear. The goal of a potential is the gradient of the expected log likelihood under the
posteriors of the local sites.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.all_sites import infer_locals
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.datum_bounds import Datum, data_of, sending
from numpyro_svae.inference.local.expectations import Expectations
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.nonlinear_chains import Chains
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.site_messages import messages_of
from numpyro_svae.inference.local.sweep_messages import Messages, where_known
from numpyro_svae.program.run.positions import per_scale
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["Messenger", "Point", "Potentials"]

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


class Messenger:
    """What sends the messages of one program.

    :param factors: the factors.
    :param likelihoods: the log likelihoods of the program.
    :param potentials: what the recognition function says of sites that are not sent
        messages.
    :param mean_field: whether coupled sites are made independent under the guide.
    :param options: how sites are inferred that are coupled, and what counts as close.
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

    def further(self, point: Point, rates: tuple[Array, ...]) -> Messages:
        """Messages that are a part of the way to their goals.

        :param rates: which part, by datum of each group.
        """
        noises = {name: self.chains.noise(name) for name in self.chains.transitions}
        return point.current.towards(point.goal, self._at_positions(rates), noises)

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

    def look(self, current: Messages) -> tuple[Point, dict[str, Any]]:
        """Infer the local sites, and send them messages.

        :param current: the messages of all sites that are sent some.
        :return: what is known there, and the moments of the sites.
        """
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
            left[name] = self.far(name, far)
        steps = self._steps(current, goal, local, left)
        bound = tuple(d.bound(factors.bound.sites, local, terms) for d in self.data)
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
        steps, gaps = chains.goals(local.marginals, told)
        for name, own in steps.items():
            far = chains.remains(name, current.steps[name], own)
            steps[name] = where_known(far, own, current.steps[name])
            far = self.far(name, far)
            left[name] = jnp.maximum(left[name], far) if name in left else far
        gains = chains.gains(gaps, local.marginals, self.potentials)
        local.kl |= {name: local.kl[name] - gain for name, gain in gains.items()}
        return steps

    def far(self, name: str, far: Array) -> Array:
        """What the bound may still rise, by entry of the batch of a site."""
        extent = self.factors.extent(name)
        if extent.mask is not None:
            far = jnp.where(extent.mask, far, 0.0)
        far = jnp.where(jnp.isfinite(far), far, jnp.inf)
        far = far**2 / self.tolerance(far.dtype)
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

    def tolerance(self, dtype: Any) -> float:
        """Of the square of a distance, which is about what a bound can still rise."""
        return self.options.nats_for(dtype)

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
