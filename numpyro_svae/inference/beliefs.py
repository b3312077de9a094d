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
from jax.nn import log_softmax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
import numpyro.distributions as dist

from numpyro_svae.blocks import discrete_chain
from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.distributions import DiscreteMarkovChain
from numpyro_svae.inference import messages
from numpyro_svae.inference.chains import chain_prior, discrete_prior, log_probs
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import GaussianFactor
from numpyro_svae.program.places import Place, clean, per_entry

__all__ = [
    "DiscreteBelief",
    "StateBelief",
    "expected_said",
    "heard",
    "infer_discrete",
    "infer_state",
    "said_of",
    "scores",
]


class DiscreteBelief(NamedTuple):
    """Posterior of a discrete site.

    :param probs: of the states, ``(*positions, K)``.
    :param marginal: the distribution.
    :param kl: divergence from the expected prior, per entry of the batch.
    """

    probs: Array
    marginal: Any
    kl: Array


class StateBelief(NamedTuple):
    """Posterior of a Gaussian site or chain.

    :param mean: ``(*positions, D)``.
    :param covariance: ``(*positions, D, D)``.
    :param marginal: the distribution.
    :param kl: divergence from the expected prior, per entry of the batch.
    """

    mean: Array
    covariance: Array
    marginal: Any
    kl: Array


def expected_said(probs: Array, said: Array) -> Array:
    """``q_k said_k``, where an impossible state counts nothing."""
    return probs * jnp.where(probs > 0, said, 0.0)


def infer_discrete(evidence: Evidence, name: str, said: Array) -> DiscreteBelief:
    """Posterior of a discrete site or chain.

    :param said: all that is said of it but its prior, ``(*positions, K)``.
    """
    place = evidence.place(name)
    said = clean(place, said)
    if evidence.local(name).kind == "categorical":
        logits = log_probs(evidence, name) + said
        normal = log_softmax(logits, -1)
        probs = jnp.exp(normal)
        kl = jnp.sum(expected_said(probs, said), -1) - logsumexp(logits, -1)
        marginal = dist.Categorical(logits=normal, validate_args=False)
        return DiscreteBelief(
            probs, marginal.to_event(place.extra), per_entry(kl, place)
        )
    found = discrete_chain.smooth(*discrete_prior(evidence, name), said)
    chain = DiscreteMarkovChain(
        found.initial_probs,
        found.transition_probs,
        place.positions[-1],
        validate_args=False,
    )
    kl = jnp.sum(expected_said(found.probs, said), (-2, -1)) - found.log_normalizer
    return DiscreteBelief(found.probs, chain, _if_any(kl, place))


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
    said = said_of(evidence, name, spoken, coupled)
    place = evidence.place(name)
    if evidence.local(name).kind == "gaussian":
        message = evidence.gaussian_prior(name) if own is None else messages.proper(own)
        mean, covariance, tril, log_normalizer = condition(
            message.loc, message.covariance, said
        )
        kl = said.expected(mean, covariance) - log_normalizer - message.offset
        marginal = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
        kl = per_entry(kl, place)
        return StateBelief(mean, covariance, marginal.to_event(place.extra), kl)
    prior = chain_prior(evidence, name)
    posterior, log_normalizer = prior.condition(said)
    mean, covariance = posterior.mean, posterior.covariance
    value = jnp.sum(said.expected(mean, covariance), -1)
    kl = _if_any(value - log_normalizer, place)
    return StateBelief(mean, covariance, posterior, kl)


def _if_any(value: Array, place: Place) -> Array:
    """Values of whole sequences, zero for those without a position that counts."""
    value = jnp.broadcast_to(value, place.batch_shape)
    return value if place.mask is None else jnp.where(place.mask.any(-1), value, 0.0)


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
        evidence.parent_message(factor, name).potential
        for factor in evidence.observed(GaussianFactor, parent=name)
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
    own = [f for f in evidence.parts(name) if f.source.selector is not None]
    found = [(f, _own_score(evidence, f, belief)) for f in own]
    for factor in evidence.observed(GaussianFactor, parent=name):
        if factor.source.selector is not None:
            table = evidence.given_parent(factor, name, belief.mean, belief.covariance)
            found.append((factor, table))
    return found


def _own_score(
    evidence: Evidence, factor: GaussianFactor, belief: StateBelief
) -> Array:
    regression = evidence.regression(factor)
    if factor.role == "transition":
        inputs = evidence.site(factor.site).fn.inputs
        return messages.expected_transitions(regression, belief.marginal, inputs)
    mean, covariance = belief.mean, belief.covariance
    if factor.role == "initial":
        mean, covariance = mean[..., 0, :], covariance[..., 0, :, :]
    c = evidence.regressor(factor)[..., None, :]
    return messages.expected_response(
        regression, c, mean[..., None, :], covariance[..., None, :, :]
    )
