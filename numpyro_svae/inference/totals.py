# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The sum of the likelihood terms and divergences of a group of local sites.

What conjugate factors say of a site is in the expectations of these factors, and once
more, with the other sign, in the divergence of its posterior:

    E_q log p(y | x) - KL(q || p)  =  log Z - E_q[what the recognition function says]

The right-hand side is what an iteration of variational message passing needs. The
gradient of the log normaliser is the expected statistics, and where no recognition
function speaks nothing is differentiated through these.
"""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.beliefs import DiscreteBelief, StateBelief, expected_said
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.joint import JointBelief
from numpyro_svae.inference.posterior import LocalPosterior
from numpyro_svae.program.factors import GaussianFactor

__all__ = ["sum_of_terms", "total_of_graph", "total_of_joint", "total_of_one"]


def sum_of_terms(evidence: Evidence, posterior: LocalPosterior) -> Array:
    """The total of any posterior, term by term."""
    gains = {name: jnp.sum(v) for name, v in posterior.expected_log_prob.items()}
    losses = {name: -jnp.sum(value) for name, value in posterior.kl.items()}
    terms = (*gains.items(), *losses.items())
    scaled = (evidence.site(name).scale * value for name, value in terms)
    return sum(scaled, jnp.zeros(()))


def _masked(evidence: Evidence, names: Any) -> bool:
    """Whether observations of a position that does not count may say nothing to it.

    They are scored all the same, so that not all that is said cancels.
    """
    return any(evidence.place(name).mask is not None for name in names)


def total_of_one(
    evidence: Evidence,
    name: str,
    belief: DiscreteBelief | StateBelief,
    potentials: dict[str, Any],
) -> Array | None:
    """The total of a site or chain that is coupled with no other.

    :param evidence: the factors.
    :param name: the site.
    :param belief: its posterior.
    :param potentials: what the recognition function says.
    :return: None if that is not known in this form.
    """
    if _masked(evidence, [name]):
        return None
    value, spoken = jnp.sum(belief.log_normalizer), potentials.get(name)
    if isinstance(belief, StateBelief):
        for factor in evidence.observed(GaussianFactor, parent=name):
            value = value + jnp.sum(evidence.parent_message(factor, name).constant)
        if spoken is not None:
            said = spoken.expected(belief.mean, belief.covariance)
            value = value - jnp.sum(said)
    elif spoken is not None:
        value = value - jnp.sum(expected_said(belief.probs, spoken.logits))
    return evidence.place(name).scale * value


def total_of_joint(
    evidence: Evidence, name: str, belief: JointBelief, potentials: dict[str, Any]
) -> Array | None:
    """The total of a discrete site and the Gaussian sites that it picks.

    :param evidence: the factors, given for each state.
    :param name: the discrete site.
    :param belief: their posterior.
    :param potentials: what the recognition function says.
    :return: None if that is not known in this form.
    """
    if _masked(evidence, (name, *belief.components)):
        return None
    probs, spoken = belief.discrete.probs, potentials.get(name)
    value = jnp.sum(belief.discrete.log_normalizer)
    if spoken is not None:
        value = value - jnp.sum(expected_said(probs, spoken.logits))
    total = evidence.place(name).scale * value
    for state, component in belief.components.items():
        own = evidence.place(state)
        value = jnp.sum(component.constant)
        if component.spoken is not None:
            states = evidence.spread(name, probs, own)
            value = value - jnp.sum(expected_said(states, component.spoken))
        total = total + own.scale * value
    return total


def total_of_graph(
    evidence: Evidence, names: list[str], log_normalizer: Array, heard: dict[str, Array]
) -> Array | None:
    """The total of the sites of a graph.

    :param evidence: the factors.
    :param names: the sites, which have the same scale.
    :param log_normalizer: of all that is said of them.
    :param heard: expectations of what the recognition function says, by site.
    :return: None if that is not known in this form.
    """
    if _masked(evidence, names):
        return None
    value = log_normalizer - sum(map(jnp.sum, heard.values()), jnp.zeros(()))
    return evidence.place(names[0]).scale * value
