# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The best product of the sites of a group, by coordinate ascent.

Each site or chain is a block, inferred exactly given the others (Winn and Bishop,
*Variational message passing*, JMLR 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors import coupling
from numpyro_svae.inference.factors.coupling import Moments, Statistics
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.forms import Form
from numpyro_svae.inference.local.beliefs import (
    DiscreteBelief,
    StateBelief,
    infer_discrete,
    infer_state,
    scores,
)
from numpyro_svae.inference.local.fixed_point import (
    FixedPoint,
    adjoint_is_found,
    solve_fixed_point,
)
from numpyro_svae.inference.local.joint import infer_joint, joint_scores
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.product_belief import ProductBelief, joining_forms
from numpyro_svae.inference.local.recurrence import Coupling, Recurrence
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.structure.groups import Group

__all__ = ["infer_product"]

Potentials = dict[str, Any]
Logits = dict[str, Array]


def infer_product(
    factors: ExpectedFactors,
    group: Group,
    messages: Logits,
    potentials: Potentials,
    options: FixedPoint,
    posterior: LocalPosterior,
    examine: bool,
) -> ProductBelief:
    """Infer the sites of a group as independent.

    :param factors: the factors, given for each state.
    :param group: the sites.
    :param messages: the messages to each discrete site alone, ``(*positions, K)``.
    :param potentials: what the recognition function says.
    :param options: how the fixed point is found.
    :param posterior: of all local sites; how the ascent ended is added.
    :param examine: whether to find out if implicit gradients can be solved for.
    """
    forms = joining_forms(factors, {*group.discrete, *group.states})
    recurrence = Recurrence.of(factors, group)
    product = _Product(factors, group, messages, potentials, forms, recurrence)
    point = product.start()
    if len(group.discrete) + len(group.states) > 1:
        known = product.sweep, point, options, _TEMPERED, bool(recurrence)
        solution = solve_fixed_point(*known)
        point, examine = solution.value, examine and not recurrence
        adjoint = adjoint_is_found(product.sweep, point) if examine else None
        posterior.record((*group.discrete, *group.states), solution, adjoint)
    found = product.infer(point)
    return ProductBelief(found.discrete, found.states)


class _Point(NamedTuple):
    """What a sweep takes to its next value.

    :param logits: messages to the discrete sites.
    :param means: of the Gaussian sites, where those inferred before them need them.
    :param messages: by the factors of discrete sites that depend on latent vectors.
    """

    logits: Any
    means: Any
    messages: Any


_TEMPERED = _Point(True, False, False)


class _Found(NamedTuple):
    """The sites, each inferred given those before it and a point."""

    discrete: dict[str, DiscreteBelief]
    states: dict[str, StateBelief]
    statistics: Statistics


@dataclass(frozen=True)
class _Product:
    factors: ExpectedFactors
    group: Group
    messages: Logits
    potentials: Potentials
    forms: tuple[Form, ...]
    recurrence: Recurrence

    def start(self) -> _Point:
        """Where sweeps start: with no messages between the sites.

        The Gaussian sites of a mixture start at their exact joint, since the average of
        all components is no place to start from.
        """
        logits = {
            name: jnp.zeros_like(self.messages[name]) for name in self.group.discrete
        }
        if self.group.kind == "mixture":
            logits = self._joint_messages()
        later = self._joined()[1:]
        means, no_messages = {}, self.recurrence.nothing()
        if later:
            _, given = self._infer_discrete(logits, no_messages)
            for name in later:
                recognised = self.potentials.get(name)
                extent, size = self.factors.extent(name), self.factors.local(name).size
                nothing = jnp.zeros((*extent.positions, size))
                if self._own(name):
                    means[name] = nothing
                else:
                    means[name] = nothing + infer_state(given, name, recognised).mean
        return _Point(logits, means, no_messages)

    def _joined(self) -> list[str]:
        """Gaussian sites that a factor joins with another one."""
        joined = [form.vectors for form in self.forms if len(form.vectors) > 1]
        return [name for name in self.group.states if any(name in j for j in joined)]

    def _joint_messages(self) -> Logits:
        factors, (name,) = self.factors, self.group.discrete
        belief = infer_joint(factors, self.group, self.messages, self.potentials)
        total = jnp.zeros_like(self.messages[name])
        for state, found in belief.components.items():
            args = factors, name, state, found, self.potentials
            total = total + joint_scores(*args)
        return {name: total}

    # sweeps

    def sweep(self, point: _Point, weight: Array | float = 1.0) -> _Point:
        """Infer each site given the others, the discrete ones last.

        :param weight: of the factors of discrete sites that depend on latent vectors.
        """
        found = self.infer(point)
        logits, statistics = self._scored(found.states), dict(found.statistics)
        for name in self.group.discrete:
            message = self._to_discrete(name, statistics)
            total = logits[name] + message
            logits[name] = total - jnp.max(total, -1, keepdims=True)
            given = self.recurrence.given(point.messages.rows)
            belief = infer_discrete(given, name, self.messages[name] + logits[name])
            statistics[name] = belief.probs
        means = {name: found.states[name].mean for name in point.means}
        whole = {name: self.messages[name] + logits[name] for name in logits}
        messages = self.recurrence.send(found.states, whole, jnp.asarray(weight))
        return _Point(logits, means, messages)

    def infer(self, point: _Point) -> _Found:
        """The discrete sites at a point, and the Gaussian ones given them in turn."""
        discrete, given = self._infer_discrete(point.logits, point.messages)
        statistics: Statistics = dict(given.probs)
        for name in self.group.states:
            extent, size = self.factors.extent(name), self.factors.local(name).size
            mean = point.means.get(name, jnp.zeros((*extent.positions, size)))
            statistics[name] = Moments.of(mean, jnp.zeros(()))
        states = {}
        for name in self.group.states:
            states[name] = self._infer_state(given, name, statistics, point.messages)
            mean, covariance = states[name].mean, states[name].covariance
            statistics[name] = Moments.of(mean, covariance)
        return _Found(discrete, states, statistics)

    def _infer_discrete(
        self, logits: Logits, messages: Coupling
    ) -> tuple[dict[str, DiscreteBelief], ExpectedFactors]:
        factors = self.recurrence.given(messages.rows)
        beliefs = {
            name: infer_discrete(factors, name, self.messages[name] + logits[name])
            for name in self.group.discrete
        }
        probs = {name: belief.probs for name, belief in beliefs.items()}
        return beliefs, factors.given(probs)

    def _infer_state(
        self, given: ExpectedFactors, name: str, statistics: Statistics, by: Coupling
    ) -> StateBelief:
        recognised, own = self.potentials.get(name), self._own(name)
        messages = self._to_gaussian(name, self._others(name), statistics)
        if name in by.potentials:
            other = by.potentials[name]
            messages = other if messages is None else messages + other
        if not own:
            return infer_state(given, name, recognised, messages)
        prior = self._to_gaussian(name, own, statistics)
        return infer_state(given, name, recognised, messages, prior)

    # messages of the factors of several sites

    def _own(self, name: str) -> list[Form]:
        """The prior of a site, if it depends on other sites."""
        return [form for form in self.forms if form.factor.site == name]

    def _others(self, name: str) -> list[Form]:
        """The factors of several sites that join a site but are not its prior."""
        return [f for f in self.forms if name in f.scope and f.factor.site != name]

    def _to_gaussian(
        self, name: str, forms: list[Form], statistics: Statistics
    ) -> GaussianPotential | None:
        if not forms:
            return None
        return coupling.to_gaussian(self.factors, name, forms, statistics)

    def _to_discrete(self, name: str, statistics: Statistics) -> Array:
        forms = [form for form in self.forms if name in form.scope]
        return coupling.to_discrete(self.factors, name, forms, statistics)

    def _scored(self, states: dict[str, StateBelief]) -> Logits:
        """Messages of the regressions of Gaussian sites to what picks them."""
        logits = jax.tree.map(jnp.zeros_like, self.messages)
        for state, belief in states.items():
            for factor, table in scores(self.factors, state, belief):
                name = str(factor.source.selector)
                logits[name] = logits[name] + self.factors.to_selector(factor, table)
        return logits
