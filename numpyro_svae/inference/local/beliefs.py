# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors of single local sites, and what they say to each other.

Given all that is said of it, each site or chain has the posterior

    q(local)  proportional to  exp(expected log prior + messages + potential)

and a divergence from its expected prior in closed form (Johnson et al., NIPS 2016,
section 4.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.distributions.kl import Path
from numpyro_svae.inference.factors.evidence import Evidence
from numpyro_svae.inference.factors.labels import known_labels
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import clean, per_entry
from numpyro_svae.program.structure.factors import GaussianFactor

__all__ = [
    "DiscreteBelief",
    "StateBelief",
    "divergence",
    "expected_potential",
    "expected_said",
    "heard",
    "infer_discrete",
    "infer_state",
    "observe_scored",
    "said_of",
    "scores",
]


class DiscreteBelief(NamedTuple):
    """Posterior of a discrete site.

    :param probs: of the states, ``(*positions, K)``.
    :param steps: of a path, what else its kind needs of its steps; those of a chain are
        probabilities ``(..., T - 1, K, K)``.
    :param entropy: per entry of the batch.
    :param possible: whether any states are, per entry of the batch.
    :param marginal: the distribution; None while a posterior is held.
    """

    probs: Array
    steps: Any
    entropy: Array
    possible: Array
    marginal: Any


class StateBelief(NamedTuple):
    """Posterior of a Gaussian site or chain.

    :param mean: ``(*positions, D)``.
    :param covariance: ``(*positions, D, D)``.
    :param path: of a chain, how its states hang together.
    :param entropy: per entry of the batch.
    :param marginal: the distribution; None while a posterior is held.
    """

    mean: Array
    covariance: Array
    path: Path | None
    entropy: Array
    marginal: Any


def expected_said(probs: Array, said: Array) -> Array:
    """``q_k said_k``, where an impossible state counts nothing."""
    return probs * jnp.where(probs > 0, said, 0.0)


def infer_discrete(evidence: Evidence, name: str, said: Array) -> DiscreteBelief:
    """Posterior of a discrete site or chain.

    :param said: all that is said of it but its prior, ``(*positions, K)``.
    """
    kind: Any = evidence.local(name).kind
    said = clean(evidence.place(name), said) + known_labels(evidence, name)
    return kind.infer(evidence, name, said)


def infer_state(
    evidence: Evidence,
    name: str,
    spoken: GaussianPotential | None,
    coupled: GaussianPotential | None = None,
    own: GaussianPotential | None = None,
) -> StateBelief:
    """Posterior of a Gaussian site or chain.

    :param evidence: the factors, averaged over the states of their selectors.
    :param spoken: what the recognition function says of it.
    :param coupled: what factors of several sites say of it.
    :param own: its prior, where that is such a factor.
    """
    kind: Any = evidence.local(name).kind
    return kind.infer(evidence, name, said_of(evidence, name, spoken, coupled), own)


def divergence(
    evidence: Evidence, name: str, belief: DiscreteBelief | StateBelief
) -> Array:
    """From the expected prior, per entry of the batch.

    :param evidence: the factors, averaged over the states of their selectors.
    """
    kind: Any = evidence.local(name).kind
    return -belief.entropy - kind.expected_prior(evidence, name, belief)


def expected_potential(
    evidence: Evidence, name: str, potential: Any, moments: Any
) -> Array:
    """What the recognition function says of a site, at each position.

    :param moments: mean and covariance, or the probabilities of the states.
    """
    if evidence.local(name).discrete:
        return jnp.sum(expected_said(moments, potential.logits), -1)
    return potential.expected(*moments)


def observe_scored(
    evidence: Evidence, probs: dict[str, Array], posterior: LocalPosterior
) -> None:
    """Add likelihood terms of the observations that discrete sites select.

    :param probs: of the discrete sites, ``(*positions, K)``.
    """
    for name, own in probs.items():
        for factor in evidence.scored(name):
            states = evidence.spread_for(factor, own)
            value = jnp.sum(expected_said(states, evidence.table(factor)), -1)
            value = per_entry(value, evidence.place(factor))
            posterior.expect({factor.site: value})
        label = evidence.structure.labels.get(name)
        if label is not None:  # counted by the divergence of the site itself
            zero = jnp.zeros(evidence.place(label).batch_shape)
            posterior.expect({label: zero})


def heard(
    evidence: Evidence, name: str, spoken: GaussianPotential | None
) -> GaussianPotential:
    """What the recognition function says of the positions that count."""
    place = evidence.place(name)
    if spoken is None:
        zeros = jnp.zeros((*place.positions, evidence.local(name).size))
        return GaussianPotential(zeros, zeros)
    return spoken if place.mask is None else spoken.mask(place.mask)


def said_of(
    evidence: Evidence,
    name: str,
    spoken: GaussianPotential | None,
    coupled: GaussianPotential | None = None,
) -> GaussianPotential:
    """The recognition function's potential and the messages of other factors.

    A position that is masked is told nothing, and keeps its prior.
    """
    said, mask = heard(evidence, name, spoken), evidence.place(name).mask
    others = [
        evidence.parent_message(factor, name)
        for factor in evidence.observed("regression", parent=name)
    ]
    for other in [*others, *([] if coupled is None else [coupled])]:
        said = said + (other if mask is None else other.mask(mask))
    return said


def scores(
    evidence: Evidence, name: str, belief: StateBelief
) -> list[tuple[GaussianFactor, Array]]:
    """Expected log densities, by state, of the factors of a Gaussian site.

    :param evidence: the factors, given for each state of their selectors.
    :return: the factors that have a selector, with their scores at their positions,
        ``(*positions, K)``.
    """
    kind: Any = evidence.local(name).kind
    own = [f for f in evidence.parts(name) if f.source.selector and not f.coupled]
    found = [(f, kind.scores(evidence, f, belief)) for f in own]
    for factor in evidence.observed("regression", parent=name):
        if factor.source.selector is not None:
            table = evidence.given_parent(factor, name, belief.mean, belief.covariance)
            found.append((factor, table))
    return found
