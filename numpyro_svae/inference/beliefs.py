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
from numpyro_svae.blocks.discrete_steps import finite_max
from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.distributions import DiscreteMarkovChain
from numpyro_svae.distributions.kl import Path
from numpyro_svae.inference import messages
from numpyro_svae.inference.chains import chain_prior, discrete_prior, log_probs
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.labels import known_labels
from numpyro_svae.inference.posterior import LocalPosterior
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import GaussianFactor
from numpyro_svae.program.places import Place, clean, per_entry

__all__ = [
    "DiscreteBelief",
    "StateBelief",
    "discrete_divergence",
    "expected_potential",
    "expected_said",
    "heard",
    "infer_discrete",
    "infer_state",
    "observe_scored",
    "said_of",
    "scores",
    "state_divergence",
]


class DiscreteBelief(NamedTuple):
    """Posterior of a discrete site.

    :param probs: of the states, ``(*positions, K)``.
    :param steps: of a chain, the probabilities ``(..., T - 1, K, K)`` of its steps.
    :param entropy: per entry of the batch.
    :param possible: whether any states are, per entry of the batch.
    :param marginal: the distribution; None while a posterior is held.
    """

    probs: Array
    steps: Array | None
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
    place = evidence.place(name)
    said = clean(place, said) + known_labels(evidence, name)
    if evidence.local(name).kind == "categorical":
        logits = log_probs(evidence, name) + said
        log_sum, probs = discrete_chain.normalize(logits)
        possible = jnp.isfinite(log_sum)
        log_sum = jnp.where(possible, log_sum, 0.0)[..., None]
        possible = possible[..., None]
        # Zeros are no argument of a log, whose derivative is infinite there.
        flat = jnp.log(jnp.where(possible, 1.0, probs))
        normal = jnp.where(possible, logits - log_sum, flat)
        marginal = dist.Categorical(logits=normal, validate_args=False)
        entropy = per_entry(-jnp.sum(expected_said(probs, normal), -1), place)
        marginal = marginal.to_event(place.extra)
        possible = per_entry(1.0 * ~possible[..., 0], place) == 0
        return DiscreteBelief(probs, None, entropy, possible, marginal)
    # What all states are told alike would drown the rest of the log normaliser.
    said = said - finite_max(said)
    initial, steps = discrete_prior(evidence, name)
    found = discrete_chain.smooth(initial, steps, said)
    chain = DiscreteMarkovChain(
        found.initial_probs,
        found.transition_probs,
        place.positions[-1],
        validate_args=False,
    )
    terms = jnp.sum(expected_said(found.probs, said), (-2, -1))
    terms = terms + discrete_chain.expected_log_density(
        initial, steps, found.probs, found.transition_probs
    )
    possible = jnp.isfinite(found.log_normalizer)
    entropy = _if_any(jnp.where(possible, found.log_normalizer - terms, 0.0), place)
    possible = _if_any(1.0 * ~possible, place) == 0
    return DiscreteBelief(found.probs, found.transition_probs, entropy, possible, chain)


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
        found = condition(message.loc, message.covariance, said)
        mean, covariance, tril = found.mean, found.covariance, found.scale_tril
        marginal = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
        entropy = per_entry(marginal.entropy(), place)
        marginal = marginal.to_event(place.extra)
        return StateBelief(mean, covariance, None, entropy, marginal)
    posterior = chain_prior(evidence, name).condition(said)
    return StateBelief(
        posterior.mean,
        posterior.covariance,
        Path.of(posterior),
        _if_any(posterior.entropy(), place),
        posterior,
    )


def _if_any(value: Array, place: Place) -> Array:
    """Values of whole sequences, zero for those without a position that counts."""
    value = jnp.broadcast_to(value, place.batch_shape)
    return value if place.mask is None else jnp.where(place.mask.any(-1), value, 0.0)


def discrete_divergence(evidence: Evidence, name: str, belief: DiscreteBelief) -> Array:
    """From the expected prior, per entry of the batch."""
    place = evidence.place(name)
    if belief.steps is None:
        prior = log_probs(evidence, name)
        return -belief.entropy - per_entry(
            jnp.sum(expected_said(belief.probs, prior), -1), place
        )
    steps = belief.probs, belief.steps
    prior = discrete_chain.expected_log_density(*discrete_prior(evidence, name), *steps)
    return -belief.entropy - _if_any(prior, place)


def state_divergence(evidence: Evidence, name: str, belief: StateBelief) -> Array:
    """From the expected prior, per entry of the batch.

    :param evidence: the factors, averaged over the states of their selectors.
    """
    place, (mean, covariance, path, *_) = evidence.place(name), belief
    if path is not None:
        prior = chain_prior(evidence, name).expected(path, mean, covariance)
        return -belief.entropy - _if_any(prior, place)
    factor = evidence.own(name)
    given = evidence.regression(factor), evidence.regressor(factor)
    prior = messages.expected_response(*given, mean, covariance)
    return -belief.entropy - per_entry(prior, place)


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
