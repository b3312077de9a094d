# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The exact joint posterior of a discrete site and the Gaussian sites that it picks.

Given the states, the Gaussian sites are independent: each state scores them by their
own messages, and the discrete site, a chain or not, is inferred from these scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array, lax
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import (
    DiscreteBelief,
    divergence,
    expected_logits,
    expected_potential,
    infer_discrete,
    observe_scored,
    potential_of,
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
        factors: ExpectedFactors, potentials: dict[str, Any], moments: tuple[dict, dict]
    ) -> Array:
        """What the recognition function says, times the scales of its sites."""
        ((name, probs),), parts = moments[0].items(), moments[1]
        total = jnp.zeros(())
        for site, potential in potentials.items():
            extent, own = factors.extent(site), moments[0].get(site)
            if own is not None:
                message = expected_potential(factors, site, potential, own)
            else:
                message = _with_states(potential).expected(*parts[site])
                message = expected_logits(factors.spread(name, probs, extent), message)
            total = total + extent.scale * jnp.sum(message)
        return total

    def add_to(self, posterior: LocalPosterior, factors: ExpectedFactors) -> None:
        """Add the sites and their divergences, and what is expected of observations.

        :param factors: the factors, given for each state.
        """
        ((name, found),) = self.discrete.items()
        kl = divergence(factors, name, found)
        everywhere = factors.extent(name)._replace(mask=None)
        for state, component in self.components.items():
            own = _divergence(factors, state, component)
            own = _at(factors, name, state, own)
            own = expected_logits(found.probs, own)
            kl = kl + per_entry(own, everywhere)
            _add_component(posterior, factors, name, found.probs, state, component)
        posterior.add_discrete(name, found, kl)
        observe_scored(factors, {name: found.probs}, posterior)
        if factors.averaged & {name, *self.components}:
            posterior.average[name] = found.probs


def _add_component(
    posterior: LocalPosterior,
    factors: ExpectedFactors,
    name: str,
    probs: Array,
    state: str,
    component: Component,
) -> None:
    """Add a Gaussian site that the probabilities of a discrete one mix."""
    extent = factors.extent(state)
    parts = dist.MultivariateNormal(
        component.mean, scale_tril=component.scale_tril, validate_args=False
    )
    weights = dist.Categorical(factors.spread(name, probs, extent), validate_args=False)
    mixture = dist.MixtureSameFamily(weights, parts, validate_args=False)
    zero = jnp.zeros(extent.batch_shape)  # the discrete site has the whole divergence
    posterior.add(state, mixture.to_event(extent.extra), zero)
    posterior.components[state] = parts
    for factor in factors.observed("regression", parent=state):
        states = factors.spread(name, probs, factors.extent(factor))
        value = _table(factors, factor, component)
        value = expected_logits(states, value)
        posterior.expect({factor.site: per_entry(value, factors.extent(factor))})


def infer_joint(
    factors: ExpectedFactors,
    group: Group,
    message: dict[str, Array],
    potentials: dict[str, Any],
) -> JointBelief:
    """Infer a discrete site and its Gaussian sites jointly.

    :param factors: the factors, given for each state.
    :param group: the sites.
    :param message: the messages to the discrete site alone, ``(*positions, K)``.
    :param potentials: what the recognition function says.
    """
    (name,), components = group.discrete, {}
    total = message[name]
    for state in group.states:
        components[state] = _component(factors, state, potentials.get(state))
        own = components[state]
        total = total + joint_scores(factors, name, state, own, potentials)
    return JointBelief({name: infer_discrete(factors, name, total)}, components)


def joint_scores(
    factors: ExpectedFactors,
    name: str,
    state: str,
    component: Component,
    recognised: dict[str, GaussianPotential],
) -> Array:
    """The message of a Gaussian site to the states, ``(*positions, K)``.

    It is the sum of what observed factors are expected to be, less the divergence from
    the prior: no term is larger than the residuals make it.

    :param name: the discrete site.
    :param state: the Gaussian site.
    """
    score = -_divergence(factors, state, component)
    extent = factors.extent(state)
    for factor in factors.observed("regression", parent=state):
        table = _table(factors, factor, component)
        score = score + pull_to(table, extent, factors.extent(factor), 1)
    if state in recognised:
        message = potential_of(factors, state, recognised[state])
        # Only what differs between the states counts, and near them it is small.
        origin = lax.stop_gradient(jnp.mean(component.mean, -2))
        message = _with_states(message.about(origin))
        mean = component.mean - origin[..., None, :]
        score = score + message.expected(mean, component.covariance)
    return _at(factors, name, state, score)


def _divergence(factors: ExpectedFactors, state: str, component: Component) -> Array:
    """From the expected prior given each state, ``(*positions, K)``."""
    factor = factors.own(state)
    c = factors.regressor(factor)[..., None, :]
    regression = factors.regression(factor)
    if not factors.by_state(factor):
        regression = messages.with_states(regression)
    mean, covariance, tril = component
    prior = messages.expected_response(regression, c, mean, covariance)
    gaussian = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
    divergence = -gaussian.entropy() - prior
    mask = factors.extent(state).mask
    # A masked position keeps its prior, which counts nothing.
    return divergence if mask is None else jnp.where(mask[..., None], divergence, 0.0)


def _table(
    factors: ExpectedFactors, factor: GaussianFactor, component: Component
) -> Array:
    """An observed factor given each state, at the positions of its site."""
    parent = str(factor.parent)
    return factors.given_parent(factor, parent, component.mean, component.covariance)


def _at(factors: ExpectedFactors, name: str, state: str, value: Array) -> Array:
    """Scores at the positions of a Gaussian site, at those of the discrete one."""
    extent = factors.extent(state)._replace(mask=None)
    return pull_to(value, factors.extent(name), extent, 1)


def _component(
    factors: ExpectedFactors, state: str, recognised: GaussianPotential | None
) -> Component:
    prior, mask = _prior(factors, state), factors.extent(state).mask
    potential = _message_to(factors, state, recognised)
    if mask is not None:
        potential = potential.mask(mask[..., None])
    return Component(*condition(prior.loc, prior.covariance, potential)[:3])


def _prior(factors: ExpectedFactors, state: str) -> messages.GaussianMessage:
    prior = factors.gaussian_prior(state)
    if factors.by_state(factors.own(state)):
        return prior
    return messages.GaussianMessage(
        prior.loc[..., None, :],
        prior.covariance[..., None, :, :],
        prior.offset[..., None],
    )


def _message_to(
    factors: ExpectedFactors, state: str, recognised: GaussianPotential | None
) -> GaussianPotential:
    """The sum of messages to a Gaussian site, by state of the discrete site."""
    total = _with_states(potential_of(factors, state, recognised))
    for factor in factors.observed("regression", parent=state):
        message = factors.parent_message(factor, state)
        total = total + (message if factors.by_state(factor) else _with_states(message))
    return total


def _with_states(potential: GaussianPotential) -> GaussianPotential:
    """The same potential for each state of a discrete site."""
    axis = -2 if potential.is_diagonal else -3
    precision = jnp.expand_dims(potential.precision, axis)
    return GaussianPotential(potential.info_vector[..., None, :], precision)
