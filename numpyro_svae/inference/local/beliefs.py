# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors of single local sites, and what they say to each other.

Given all messages to it, each site or chain has the posterior

    q(local)  proportional to  exp(expected log prior + messages + potential)

and a divergence from its expected prior in closed form (Johnson et al., NIPS 2016,
section 4.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.distributions.kl import Path
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.labels import known_labels
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import clean, per_entry
from numpyro_svae.program.structure.factors import GaussianFactor

__all__ = [
    "DiscreteBelief",
    "StateBelief",
    "divergence",
    "expected_logits",
    "expected_potential",
    "infer_discrete",
    "infer_state",
    "message_to",
    "observe_scored",
    "potential_of",
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


def expected_logits(probs: Array, message: Array) -> Array:
    """``sum_k q_k message_k``, where an impossible state counts nothing.

    XLA adds up along a short last axis one number at a time, and computes all that it
    adds up again, unless states lead and both are given.

    :param probs: q, of shape ``(..., K)``.
    :param message: of a shape that broadcasts with it.
    :return: of shape ``(...)``.
    """
    rank = max(probs.ndim, message.ndim)

    def lead(x: Array) -> Array:
        x = jnp.expand_dims(x, tuple(range(rank - x.ndim)))
        return lax.optimization_barrier(jnp.moveaxis(x, -1, 0))

    probs, message = lead(probs), lead(message)
    return jnp.sum(probs * jnp.where(probs > 0, message, 0.0), 0)


def infer_discrete(
    factors: ExpectedFactors, name: str, message: Array
) -> DiscreteBelief:
    """Posterior of a discrete site or chain.

    :param message: the sum of messages to it but its prior's, ``(*positions, K)``.
    """
    kind: Any = factors.local(name).kind
    message = clean(factors.extent(name), message) + known_labels(factors, name)
    return kind.infer(factors, name, message)


def infer_state(
    factors: ExpectedFactors,
    name: str,
    recognised: GaussianPotential | None,
    coupled: GaussianPotential | None = None,
    own: GaussianPotential | None = None,
) -> StateBelief:
    """Posterior of a Gaussian site or chain.

    :param factors: the factors, averaged over the states of their selectors.
    :param recognised: what the recognition function says of it.
    :param coupled: what factors of several sites say of it.
    :param own: its prior, where that is such a factor.
    """
    kind: Any = factors.local(name).kind
    return kind.infer(
        factors, name, message_to(factors, name, recognised, coupled), own
    )


def divergence(
    factors: ExpectedFactors, name: str, belief: DiscreteBelief | StateBelief
) -> Array:
    """From the expected prior, per entry of the batch.

    :param factors: the factors, averaged over the states of their selectors.
    """
    kind: Any = factors.local(name).kind
    return -belief.entropy - kind.expected_prior(factors, name, belief)


def expected_potential(
    factors: ExpectedFactors, name: str, potential: Any, moments: Any
) -> Array:
    """What the recognition function says of a site, at each position.

    :param moments: mean and covariance, or the probabilities of the states.
    """
    if factors.local(name).discrete:
        return expected_logits(moments, potential.logits)
    return potential.expected(*moments)


def observe_scored(
    factors: ExpectedFactors, probs: dict[str, Array], posterior: LocalPosterior
) -> None:
    """Add likelihood terms of the observations that discrete sites select.

    :param probs: of the discrete sites, ``(*positions, K)``.
    """
    for name, own in probs.items():
        for factor in factors.scored(name):
            states = factors.spread_for(factor, own)
            value = expected_logits(states, factors.table(factor))
            value = per_entry(value, factors.extent(factor))
            posterior.expect({factor.site: value})
        label = factors.structure.labels.get(name)
        if label is not None:  # counted by the divergence of the site itself
            zero = jnp.zeros(factors.extent(label).batch_shape)
            posterior.expect({label: zero})


def potential_of(
    factors: ExpectedFactors, name: str, recognised: GaussianPotential | None
) -> GaussianPotential:
    """What the recognition function says of the positions that count."""
    extent = factors.extent(name)
    if recognised is None:
        zeros = jnp.zeros((*extent.positions, factors.local(name).size))
        return GaussianPotential(zeros, zeros)
    return recognised if extent.mask is None else recognised.mask(extent.mask)


def message_to(
    factors: ExpectedFactors,
    name: str,
    recognised: GaussianPotential | None,
    coupled: GaussianPotential | None = None,
) -> GaussianPotential:
    """The recognition function's potential and the messages of other factors.

    A position that is masked has no message, and keeps its prior.
    """
    message, mask = potential_of(factors, name, recognised), factors.extent(name).mask
    others = [
        factors.parent_message(factor, name)
        for factor in factors.observed("regression", parent=name)
    ]
    for other in [*others, *([] if coupled is None else [coupled])]:
        message = message + (other if mask is None else other.mask(mask))
    return message


def scores(
    factors: ExpectedFactors, name: str, belief: StateBelief
) -> list[tuple[GaussianFactor, Array]]:
    """Expected log densities, by state, of the factors of a Gaussian site.

    :param factors: the factors, given for each state of their selectors.
    :return: the factors that have a selector, with their scores at their positions,
        ``(*positions, K)``.
    """
    kind: Any = factors.local(name).kind
    own = [f for f in factors.parts(name) if f.source.selector and not f.coupled]
    found = [(f, kind.scores(factors, f, belief)) for f in own]
    for factor in factors.observed("regression", parent=name):
        if factor.source.selector is not None:
            table = factors.given_parent(factor, name, belief.mean, belief.covariance)
            found.append((factor, table))
    return found
