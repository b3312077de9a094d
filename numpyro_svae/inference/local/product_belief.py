# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The posteriors of the sites of a group, if they are independent."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors import coupling
from numpyro_svae.inference.factors.coupling import Moments, Statistics
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.forms import Form, form_of
from numpyro_svae.inference.local.beliefs import (
    DiscreteBelief,
    StateBelief,
    divergence,
    expected_potential,
    observe_scored,
)
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.recurrence import Recurrence
from numpyro_svae.program.run.positions import per_entry
from numpyro_svae.program.structure.groups import scope

__all__ = ["ProductBelief", "joining_forms"]

Potentials = dict[str, Any]


class ProductBelief(NamedTuple):
    """The posteriors of independent sites."""

    discrete: dict[str, DiscreteBelief]
    states: dict[str, StateBelief]

    @property
    def moments(self) -> dict[str, Any]:
        """Probabilities, or mean and covariance, by site."""
        probs = {name: found.probs for name, found in self.discrete.items()}
        return probs | {n: (s.mean, s.covariance) for n, s in self.states.items()}

    @staticmethod
    def expected(
        factors: ExpectedFactors, potentials: Potentials, moments: dict[str, Any]
    ) -> Array:
        """What the recognition function says, times the scales of its sites."""
        total = jnp.zeros(())
        for name, potential in potentials.items():
            message = expected_potential(factors, name, potential, moments[name])
            total = total + factors.extent(name).scale * jnp.sum(message)
        return total

    def add_to(self, posterior: LocalPosterior, factors: ExpectedFactors) -> None:
        """Add the sites and their divergences, and what is expected of observations.

        :param factors: the factors, given for each state.
        """
        factors = Recurrence(factors, tuple(self.discrete)).expected(self.states)
        probs = {name: found.probs for name, found in self.discrete.items()}
        forms = joining_forms(factors, {*self.discrete, *self.states})
        for name, found in self.discrete.items():
            kl = divergence(factors, name, found)
            posterior.add_discrete(name, found, kl)
            if name in factors.averaged:
                posterior.average[name] = found.probs
        observe_scored(factors, probs, posterior)
        given = factors.given(probs)
        for name, state in self.states.items():
            # A prior that depends on other sites is counted with their factors.
            own = [form.factor for form in forms if form.factor.site == name]
            joined = any(factor.role == "value" for factor in own)
            kl = -state.entropy if joined else divergence(given, name, state)
            posterior.add(name, state.marginal, kl)
            for factor in given.observed("regression", parent=name):
                value = given.given_parent(factor, name, state.mean, state.covariance)
                posterior.expect({factor.site: per_entry(value, given.extent(factor))})
        self._add_forms(posterior, factors, forms)

    def _add_forms(
        self,
        posterior: LocalPosterior,
        factors: ExpectedFactors,
        forms: tuple[Form, ...],
    ) -> None:
        """Add the factors of several sites."""
        statistics: Statistics = {n: found.probs for n, found in self.discrete.items()}
        origins = {name: state.mean for name, state in self.states.items()}
        for name, state in self.states.items():  # about the means
            statistics[name] = Moments(jnp.zeros_like(state.mean), state.covariance)
        for form in forms:
            form = form_of(factors, form.factor, origins)
            value = coupling.expected(factors, form, statistics)
            value, site = per_entry(value, form.extent), form.factor.site
            if site in posterior.kl:
                posterior.kl[site] = posterior.kl[site] - value
            else:
                posterior.expect({site: value})


def joining_forms(factors: ExpectedFactors, members: set[str]) -> tuple[Form, ...]:
    """The factors of several of some sites that are no simple regressions."""
    found = (
        factor
        for factor in factors.structure.factors
        if factor.coupled
        and members & set(scope(factors.structure, factor))
        and factors.bound.active(factor.site, factors.structure)
    )
    return tuple(form_of(factors, factor) for factor in found)
