# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The exact joint posterior of a discrete site and the Gaussian sites that it picks.

Given the states, the Gaussian sites are independent: each state scores them by their
local log normalisers, and the discrete site, a chain or not, is inferred from these.
"""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.gaussian import GaussianPosterior, condition
from numpyro_svae.inference.beliefs import (
    DiscreteBelief,
    expected_said,
    heard,
    infer_discrete,
)
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.messages import GaussianMessage
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import GaussianFactor
from numpyro_svae.program.places import per_entry, pull_to

__all__ = ["Component", "JointBelief", "infer_joint"]


class Component(NamedTuple):
    """A Gaussian site given each state of the discrete one, positions before states.

    :param posterior: with batch ``(*positions, K)``.
    :param score: log evidence of each state, ``(*positions, K)``.
    :param expected: of all that is said of the site, ``(*positions, K)``.
    :param spoken: of what the recognition function says of it, if it does.
    :param constant: of messages to the site, where all states share it.
    """

    posterior: GaussianPosterior
    score: Array
    expected: Array
    spoken: Array | None
    constant: Array


class JointBelief(NamedTuple):
    """The discrete site, and each Gaussian site given its states."""

    discrete: DiscreteBelief
    components: dict[str, Component]


def infer_joint(
    evidence: Evidence,
    name: str,
    said: Array,
    spoken: dict[str, GaussianPotential],
    states: tuple[str, ...],
) -> JointBelief:
    """Infer a discrete site and its Gaussian sites jointly.

    :param evidence: the factors, given for each state.
    :param name: the discrete site.
    :param said: all that is said of it alone, ``(*positions, K)``.
    :param spoken: what the recognition function says of the Gaussian sites.
    :param states: the Gaussian sites.
    """
    components = {s: _component(evidence, s, spoken.get(s)) for s in states}
    total = said
    for state, component in components.items():
        total = total + _at(evidence, name, state, component.score)
    belief = infer_discrete(evidence, name, total)
    # What the states were scored by is their log evidence, of which the divergence
    # from the prior has only the expectation of what was said.
    kl = belief.kl
    everywhere = evidence.place(name)._replace(mask=None)
    for state, component in components.items():
        gap = _at(evidence, name, state, component.expected - component.score)
        gap = jnp.sum(expected_said(belief.probs, gap), -1)
        kl = kl + per_entry(gap, everywhere)
    return JointBelief(belief._replace(kl=kl), components)


def _at(evidence: Evidence, name: str, state: str, value: Array) -> Array:
    """Scores at the positions of a Gaussian site, at those of the discrete one."""
    place = evidence.place(state)._replace(mask=None)
    return pull_to(value, evidence.place(name), place, 1)


def _component(
    evidence: Evidence, state: str, spoken: GaussianPotential | None
) -> Component:
    prior = _prior(evidence, state)
    potential, constant, shared = _said_of(evidence, state, spoken)
    mask = evidence.place(state).mask
    mask = None if mask is None else mask[..., None]
    heeded = potential if mask is None else potential.mask(mask)
    posterior = condition(prior.loc, prior.covariance, heeded)
    expected = potential.expected(posterior.mean, posterior.covariance) + constant
    score = posterior.log_normalizer + prior.offset + constant
    if mask is not None:  # a masked position keeps its prior, which counts nothing
        score = jnp.where(mask, score, expected)
    own = None
    if spoken is not None:
        heard_alone = _with_states(heard(evidence, state, spoken))
        own = heard_alone.expected(posterior.mean, posterior.covariance)
    return Component(posterior, score, expected, own, shared)


def _prior(evidence: Evidence, state: str) -> GaussianMessage:
    prior = evidence.gaussian_prior(state)
    if evidence.by_state(evidence.own(state)):
        return prior
    return GaussianMessage(
        prior.loc[..., None, :],
        prior.covariance[..., None, :, :],
        prior.offset[..., None],
    )


def _said_of(
    evidence: Evidence, state: str, spoken: GaussianPotential | None
) -> tuple[GaussianPotential, Array, Array]:
    """Potential by state of the discrete site, its constant, and that of all states."""
    total = _with_states(heard(evidence, state, spoken))
    constant = shared = jnp.zeros(())
    for factor in evidence.observed(GaussianFactor, parent=state):
        message = evidence.parent_message(factor, state)
        if evidence.by_state(factor):
            total, constant = total + message.potential, constant + message.constant
        else:
            total = total + _with_states(message.potential)
            shared = shared + message.constant
    return total, constant, shared


def _with_states(potential: GaussianPotential) -> GaussianPotential:
    """The same potential for each state of a discrete site."""
    precision = potential.full_precision()[..., None, :, :]
    return GaussianPotential(potential.info_vector[..., None, :], precision)
