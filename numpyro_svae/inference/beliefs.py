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
    :param log_normalizer: of the prior times all that is said, per entry of the batch.
    """

    probs: Array
    marginal: Any
    kl: Array
    log_normalizer: Array


class StateBelief(NamedTuple):
    """Posterior of a Gaussian site or chain.

    :param mean: ``(*positions, D)``.
    :param covariance: ``(*positions, D, D)``.
    :param marginal: the distribution.
    :param kl: divergence from the expected prior, per entry of the batch.
    :param log_normalizer: of the prior times all that is said, per entry of the batch.
    """

    mean: Array
    covariance: Array
    marginal: Any
    kl: Array
    log_normalizer: Array


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
        log_sum, probs = discrete_chain.normalize(logits)
        normal = logits - log_sum[..., None]
        marginal = dist.Categorical(logits=normal, validate_args=False)
        kl = per_entry(jnp.sum(expected_said(probs, said), -1) - log_sum, place)
        marginal = marginal.to_event(place.extra)
        return DiscreteBelief(probs, marginal, kl, per_entry(log_sum, place))
    found = discrete_chain.smooth(*discrete_prior(evidence, name), said)
    chain = DiscreteMarkovChain(
        found.initial_probs,
        found.transition_probs,
        place.positions[-1],
        validate_args=False,
    )
    log_sum = _if_any(found.log_normalizer, place)
    kl = _if_any(jnp.sum(expected_said(found.probs, said), (-2, -1)), place) - log_sum
    return DiscreteBelief(found.probs, chain, kl, log_sum)


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
        log_normalizer = log_normalizer + message.offset
        kl = per_entry(said.expected(mean, covariance) - log_normalizer, place)
        log_normalizer = per_entry(log_normalizer, place)
        marginal = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
        marginal = marginal.to_event(place.extra)
        return StateBelief(mean, covariance, marginal, kl, log_normalizer)
    prior = chain_prior(evidence, name)
    posterior, log_normalizer = prior.condition(said)
    mean, covariance = posterior.mean, posterior.covariance
    value = _if_any(jnp.sum(said.expected(mean, covariance), -1), place)
    log_normalizer = _if_any(log_normalizer, place)
    kl = value - log_normalizer
    return StateBelief(mean, covariance, posterior, kl, log_normalizer)


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
