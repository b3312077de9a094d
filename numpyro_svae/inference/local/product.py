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
from numpyro_svae.inference.factors.forms import Form, form_of
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
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.structure.groups import Group

__all__ = ["Product", "infer_product"]

Potentials = dict[str, Any]
Logits = dict[str, Array]


def infer_product(
    product: Product, options: FixedPoint, posterior: LocalPosterior, examine: bool
) -> ProductBelief:
    """Infer the sites of a group as independent.

    :param product: the group.
    :param options: how the fixed point is found.
    :param posterior: of all local sites; how the ascent ended is added.
    :param examine: whether to find out if implicit gradients can be solved for.
    """
    group = product.group
    point = product.start()
    if len(group.discrete) + len(group.states) > 1:
        solution = solve_fixed_point(product.sweep, point, options, _TEMPERED)
        point = solution.value
        adjoint = adjoint_is_found(product.sweep, point) if examine else None
        posterior.record((*group.discrete, *group.states), solution, adjoint)
    found = product.infer(point)
    return ProductBelief(found.discrete, found.states)


class _Point(NamedTuple):
    """What a sweep takes to its next value.

    :param logits: messages to the discrete sites.
    :param means: of the Gaussian sites, where those inferred before them need them.
    """

    logits: Any
    means: Any


_TEMPERED = _Point(True, False)


class _Found(NamedTuple):
    """The sites, each inferred given those before it and a point."""

    discrete: dict[str, DiscreteBelief]
    states: dict[str, StateBelief]
    statistics: Statistics


@dataclass(frozen=True)
class Product:
    """What sweeps infer of the sites of a group, given each other.

    :param factors: the factors, given for each state.
    :param group: the sites.
    :param messages: the messages to each discrete site alone, ``(*positions, K)``.
    :param potentials: what the recognition function says.
    :param forms: the factors of several sites.
    """

    factors: ExpectedFactors
    group: Group
    messages: Logits
    potentials: Potentials
    forms: tuple[Form, ...]

    @classmethod
    def of(
        cls,
        factors: ExpectedFactors,
        group: Group,
        messages: Logits,
        potentials: Potentials,
    ) -> Product:
        """That of a group of a program."""
        forms = joining_forms(factors, {*group.discrete, *group.states})
        return cls(factors, group, messages, potentials, forms)

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
        return _Point(logits, self.first_means(self.infer_discrete(logits)))

    def first_means(self, discrete: dict[str, DiscreteBelief]) -> dict[str, Array]:
        """Means of the Gaussian sites that those inferred before them need at first."""
        means = {}
        given = self.factors.given({n: found.probs for n, found in discrete.items()})
        for name in self._joined()[1:]:
            recognised = self.potentials.get(name)
            extent, size = self.factors.extent(name), self.factors.local(name).size
            nothing = jnp.zeros((*extent.positions, size))
            if self._own(name):
                means[name] = nothing
            else:
                means[name] = nothing + infer_state(given, name, recognised).mean
        return means

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

    def sweep(self, point: _Point) -> _Point:
        """Infer each site given the others, the discrete ones last."""
        found = self.infer(point)
        logits, _ = self.score(found.states, found.statistics, self.factors)
        means = {name: found.states[name].mean for name in point.means}
        return _Point(logits, means)

    def infer(self, point: _Point) -> _Found:
        """The discrete sites at a point, and the Gaussian ones given them in turn."""
        discrete = self.infer_discrete(point.logits)
        probs = {name: belief.probs for name, belief in discrete.items()}
        return _Found(discrete, *self.infer_states(probs, point.means))

    def infer_discrete(self, logits: Logits) -> dict[str, DiscreteBelief]:
        """The discrete sites at messages of the Gaussian ones."""
        return {
            name: infer_discrete(self.factors, name, self.messages[name] + logits[name])
            for name in self.group.discrete
        }

    def infer_states(
        self,
        probs: dict[str, Array],
        means: dict[str, Array],
        told: Potentials | None = None,
    ) -> tuple[dict[str, StateBelief], Statistics]:
        """The Gaussian sites in turn.

        :param probs: of the discrete sites.
        :param means: of Gaussian sites that are yet to be inferred.
        :param told: what other factors say of them.
        :return: with the statistics of all sites.
        """
        given, statistics = self.factors.given(probs), Statistics()
        statistics |= probs
        for name in self.group.states:
            extent, size = self.factors.extent(name), self.factors.local(name).size
            mean = means.get(name, jnp.zeros((*extent.positions, size)))
            statistics[name] = Moments.of(mean, jnp.zeros(()))
        states = {}
        for name in self.group.states:
            by = (told or {}).get(name)
            states[name] = self._infer_state(given, name, statistics, by)
            mean, covariance = states[name].mean, states[name].covariance
            statistics[name] = Moments.of(mean, covariance)
        return states, statistics

    def score(
        self,
        states: dict[str, StateBelief],
        statistics: Statistics,
        factors: ExpectedFactors,
        temper: Array | float = 1.0,
    ) -> tuple[Logits, dict[str, DiscreteBelief]]:
        """Messages to the discrete sites, and these given them, in turn.

        :param states: the Gaussian sites.
        :param statistics: of all sites.
        :param factors: those that discrete sites are inferred with.
        :param temper: weight of the messages.
        """
        logits, statistics = self._scored(states), dict(statistics)
        found = {}
        for name in self.group.discrete:
            total = logits[name] + self._to_discrete(name, statistics)
            logits[name] = temper * (total - jnp.max(total, -1, keepdims=True))
            message = self.messages[name] + logits[name]
            found[name] = infer_discrete(factors, name, message)
            statistics[name] = found[name].probs
        return logits, found

    def _infer_state(
        self,
        given: ExpectedFactors,
        name: str,
        statistics: Statistics,
        by: GaussianPotential | None,
    ) -> StateBelief:
        recognised = self.potentials.get(name)
        messages = self._to_gaussian(name, self._others(name), statistics)
        if by is not None:
            messages = by if messages is None else messages + by
        prior = self._prior(name, statistics)
        return infer_state(given, name, recognised, messages, prior)

    # messages of the factors of several sites

    def _own(self, name: str) -> list[Form]:
        """The prior of a site, if it depends on other sites."""
        return [form for form in self.forms if form.factor.site == name]

    def _prior(self, name: str, statistics: Statistics) -> GaussianPotential | None:
        """The expected prior of a site, if it depends on other sites.

        Where the site is masked its prior is not counted, and it has it all the same.
        """
        own = self._own(name)
        for form in list(own):
            mask = form.extent.mask
            if mask is not None:
                uncounted = form_of(self.factors, form.factor, proper=True)
                extent = uncounted.extent._replace(mask=~mask)
                own.append(uncounted._replace(extent=extent))
        return self._to_gaussian(name, own, statistics)

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
