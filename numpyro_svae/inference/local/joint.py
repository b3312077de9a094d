# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The exact joint posterior of a discrete site and the Gaussian sites that it picks.

Given the states, the Gaussian sites are independent: each state scores them by their
local evidence, and the discrete site, a chain or not, is inferred from these scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array, lax
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.evidence import Evidence
from numpyro_svae.inference.local.beliefs import (
    DiscreteBelief,
    divergence,
    expected_potential,
    expected_said,
    heard,
    infer_discrete,
    observe_scored,
)
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import per_entry, pull_to
from numpyro_svae.program.structure.factors import GaussianFactor
from numpyro_svae.program.structure.groups import Group

__all__ = [
    "Component",
    "JointBelief",
    "infer_joint",
    "joint_scores",
]


class Component(NamedTuple):
    """A Gaussian site given each state of the discrete one, positions before states.

    :param mean: of shape ``(*positions, K, D)``.
    :param covariance: of shape ``(*positions, K, D, D)``.
    :param scale_tril: its Cholesky factor.
    """

    mean: Array
    covariance: Array
    scale_tril: Array


class JointBelief(NamedTuple):
    """A discrete site, and each Gaussian site given its states.

    :param discrete: by name, one site.
    :param components: by name.
    """

    discrete: dict[str, DiscreteBelief]
    components: dict[str, Component]

    @property
    def moments(self) -> tuple[dict[str, Array], dict[str, tuple[Array, Array]]]:
        """Probabilities, and means and covariances by state."""
        parts = {n: (c.mean, c.covariance) for n, c in self.components.items()}
        return {name: found.probs for name, found in self.discrete.items()}, parts

    @staticmethod
    def expected(
        evidence: Evidence, potentials: dict[str, Any], moments: tuple[dict, dict]
    ) -> Array:
        """What the recognition function says, times the scales of its sites."""
        ((name, probs),), parts = moments[0].items(), moments[1]
        total = jnp.zeros(())
        for site, potential in potentials.items():
            place, own = evidence.place(site), moments[0].get(site)
            if own is not None:
                said = expected_potential(evidence, site, potential, own)
            else:
                said = _with_states(potential).expected(*parts[site])
                said = expected_said(evidence.spread(name, probs, place), said)
            total = total + place.scale * jnp.sum(said)
        return total

    def add_to(self, posterior: LocalPosterior, evidence: Evidence) -> None:
        """Add the sites and their divergences, and what is expected of observations.

        :param evidence: the factors, given for each state.
        """
        ((name, found),) = self.discrete.items()
        kl = divergence(evidence, name, found)
        everywhere = evidence.place(name)._replace(mask=None)
        for state, component in self.components.items():
            own = _divergence(evidence, state, component)
            own = _at(evidence, name, state, own)
            own = jnp.sum(expected_said(found.probs, own), -1)
            kl = kl + per_entry(own, everywhere)
            _add_component(posterior, evidence, name, found.probs, state, component)
        posterior.add_discrete(name, found, kl)
        observe_scored(evidence, {name: found.probs}, posterior)
        if evidence.averaged & {name, *self.components}:
            posterior.average[name] = found.probs


def _add_component(
    posterior: LocalPosterior,
    evidence: Evidence,
    name: str,
    probs: Array,
    state: str,
    component: Component,
) -> None:
    """Add a Gaussian site that the probabilities of a discrete one mix."""
    place = evidence.place(state)
    parts = dist.MultivariateNormal(
        component.mean, scale_tril=component.scale_tril, validate_args=False
    )
    weights = dist.Categorical(evidence.spread(name, probs, place), validate_args=False)
    mixture = dist.MixtureSameFamily(weights, parts, validate_args=False)
    zero = jnp.zeros(place.batch_shape)  # the discrete site has the whole divergence
    posterior.add(state, mixture.to_event(place.extra), zero)
    posterior.components[state] = parts
    for factor in evidence.observed("regression", parent=state):
        states = evidence.spread(name, probs, evidence.place(factor))
        value = _table(evidence, factor, component)
        value = jnp.sum(expected_said(states, value), -1)
        posterior.expect({factor.site: per_entry(value, evidence.place(factor))})


def infer_joint(
    evidence: Evidence,
    group: Group,
    said: dict[str, Array],
    potentials: dict[str, Any],
) -> JointBelief:
    """Infer a discrete site and its Gaussian sites jointly.

    :param evidence: the factors, given for each state.
    :param group: the sites.
    :param said: all that is said of the discrete site alone, ``(*positions, K)``.
    :param potentials: what the recognition function says.
    """
    (name,), components = group.discrete, {}
    total = said[name]
    for state in group.states:
        components[state] = _component(evidence, state, potentials.get(state))
        own = components[state]
        total = total + joint_scores(evidence, name, state, own, potentials)
    return JointBelief({name: infer_discrete(evidence, name, total)}, components)


def joint_scores(
    evidence: Evidence,
    name: str,
    state: str,
    component: Component,
    spoken: dict[str, GaussianPotential],
) -> Array:
    """Log evidence of the states from a Gaussian site, ``(*positions, K)``.

    It is the sum of what observed factors are expected to be, less the divergence from
    the prior: no term is larger than the residuals make it.

    :param name: the discrete site.
    :param state: the Gaussian site.
    """
    score = -_divergence(evidence, state, component)
    place = evidence.place(state)
    for factor in evidence.observed("regression", parent=state):
        table = _table(evidence, factor, component)
        score = score + pull_to(table, place, evidence.place(factor), 1)
    if state in spoken:
        said = heard(evidence, state, spoken[state])
        # Only what differs between the states counts, and near them it is small.
        origin = lax.stop_gradient(jnp.mean(component.mean, -2))
        said = _with_states(said.about(origin))
        mean = component.mean - origin[..., None, :]
        score = score + said.expected(mean, component.covariance)
    return _at(evidence, name, state, score)


def _divergence(evidence: Evidence, state: str, component: Component) -> Array:
    """From the expected prior given each state, ``(*positions, K)``."""
    factor = evidence.own(state)
    c = evidence.regressor(factor)[..., None, :]
    regression = evidence.regression(factor)
    if not evidence.by_state(factor):
        regression = messages.with_states(regression)
    mean, covariance, tril = component
    prior = messages.expected_response(regression, c, mean, covariance)
    gaussian = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
    divergence = -gaussian.entropy() - prior
    mask = evidence.place(state).mask
    # A masked position keeps its prior, which counts nothing.
    return divergence if mask is None else jnp.where(mask[..., None], divergence, 0.0)


def _table(evidence: Evidence, factor: GaussianFactor, component: Component) -> Array:
    """An observed factor given each state, at the positions of its site."""
    parent = str(factor.parent)
    return evidence.given_parent(factor, parent, component.mean, component.covariance)


def _at(evidence: Evidence, name: str, state: str, value: Array) -> Array:
    """Scores at the positions of a Gaussian site, at those of the discrete one."""
    place = evidence.place(state)._replace(mask=None)
    return pull_to(value, evidence.place(name), place, 1)


def _component(
    evidence: Evidence, state: str, spoken: GaussianPotential | None
) -> Component:
    prior, mask = _prior(evidence, state), evidence.place(state).mask
    potential = _said_of(evidence, state, spoken)
    if mask is not None:
        potential = potential.mask(mask[..., None])
    return Component(*condition(prior.loc, prior.covariance, potential)[:3])


def _prior(evidence: Evidence, state: str) -> messages.GaussianMessage:
    prior = evidence.gaussian_prior(state)
    if evidence.by_state(evidence.own(state)):
        return prior
    return messages.GaussianMessage(
        prior.loc[..., None, :],
        prior.covariance[..., None, :, :],
        prior.offset[..., None],
    )


def _said_of(
    evidence: Evidence, state: str, spoken: GaussianPotential | None
) -> GaussianPotential:
    """All that is said of a Gaussian site, by state of the discrete site."""
    total = _with_states(heard(evidence, state, spoken))
    for factor in evidence.observed("regression", parent=state):
        said = evidence.parent_message(factor, state)
        total = total + (said if evidence.by_state(factor) else _with_states(said))
    return total


def _with_states(potential: GaussianPotential) -> GaussianPotential:
    """The same potential for each state of a discrete site."""
    precision = potential.full_precision()[..., None, :, :]
    return GaussianPotential(potential.info_vector[..., None, :], precision)
