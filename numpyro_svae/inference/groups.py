# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Inference in groups of coupled local sites.

A group is inferred exactly where that is tractable: a site or a chain by itself, a
discrete site or chain with Gaussian sites that are independent given its states, and a
graph of sites that depend on each other in other ways, as long as no chain is among
them. The others, and all but graphs if that is asked for, get the best product of their
sites by coordinate ascent.
"""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.inference.beliefs import expected_said
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.fixed_point import FixedPoint
from numpyro_svae.inference.graph import infer_graph
from numpyro_svae.inference.joint import JointBelief, infer_joint
from numpyro_svae.inference.posterior import LocalPosterior
from numpyro_svae.inference.product import infer_product
from numpyro_svae.inference.totals import sum_of_terms, total_of_joint
from numpyro_svae.potentials import CategoricalPotential
from numpyro_svae.program.factors import GaussianFactor
from numpyro_svae.program.groups import Group, coupled_groups
from numpyro_svae.program.places import clean, per_entry

__all__ = ["infer_locals"]

Potentials = dict[str, Any]
Logits = dict[str, Array]


def infer_locals(
    evidence: Evidence,
    potentials: Potentials,
    mean_field: bool,
    options: FixedPoint,
    examine: bool = False,
) -> LocalPosterior:
    """Infer all local sites.

    :param evidence: the factors.
    :param potentials: what the recognition function says, by site.
    :param mean_field: whether coupled sites are made independent under the guide.
    :param options: how the fixed point of a product of coupled sites is found.
    :param examine: whether to find out if implicit gradients can be solved for there.
    :return: their posterior.
    """
    posterior = LocalPosterior()
    posterior.expect(evidence.data_log_probs())
    posterior.log_evidence |= posterior.expected_log_prob
    for name, value in posterior.expected_log_prob.items():
        posterior.totals[name] = evidence.site(name).scale * jnp.sum(value)
    for group in coupled_groups(evidence.structure):
        own = LocalPosterior()
        said = {name: _said(evidence, name, potentials) for name in group.discrete}
        if group.kind == "graph":
            probs, total = infer_graph(evidence, group, said, potentials, own)
        elif group.kind == "mixture" and not mean_field:
            probs, total = _joint(evidence, group, said, potentials, own)
        else:
            args = evidence, group, said, potentials, options, own
            probs, total = infer_product(*args, examine)
        for name in group.discrete:
            _observe_scored(evidence, name, probs[name], own)
        posterior.include(own, sum_of_terms(evidence, own) if total is None else total)
    return posterior


def _said(evidence: Evidence, name: str, potentials: Potentials) -> Array:
    """All that is said of a discrete site by data and the recognition function."""
    place, size = evidence.place(name), evidence.local(name).size
    said = jnp.zeros((*place.positions, size))
    for factor in evidence.scored(name):
        said = said + evidence.to_selector(factor, evidence.table(factor))
    spoken = potentials.get(name)
    if spoken is not None:
        said = said + clean(place, spoken.logits)
    label = evidence.structure.labels.get(name)
    return said if label is None else said + _known(evidence, label, size)


def _known(evidence: Evidence, label: str, size: int) -> Array:
    """Rule out all states but the label where the label is known."""
    site, place = evidence.site(label), evidence.place(label)
    potential = CategoricalPotential.from_labels(site.value, size, place.mask)
    return potential.logits


def _observe_scored(
    evidence: Evidence, name: str, probs: Array, posterior: LocalPosterior
) -> None:
    """Likelihood terms of the observations that a discrete site selects."""
    for factor in evidence.scored(name):
        states = evidence.spread_for(factor, probs)
        value = jnp.sum(expected_said(states, evidence.table(factor)), -1)
        value = per_entry(value, evidence.place(factor))
        posterior.expect({factor.site: value})
    label = evidence.structure.labels.get(name)
    if label is not None:  # counted by the divergence of the site itself
        posterior.expect({label: jnp.zeros(evidence.place(label).batch_shape)})


# the exact joint posterior


def _joint(
    evidence: Evidence,
    group: Group,
    said: Logits,
    potentials: Potentials,
    posterior: LocalPosterior,
) -> tuple[Logits, Array | None]:
    (name,) = group.discrete
    belief = infer_joint(evidence, name, said[name], potentials, group.states)
    probs = belief.discrete.probs
    posterior.add_discrete(name, belief.discrete)
    for state in group.states:
        _add_component(evidence, name, state, belief, posterior)
    sampled = frozenset().union(*evidence.structure.likelihoods.values())
    if sampled & {name, *group.states}:
        posterior.average[name] = probs
    return {name: probs}, total_of_joint(evidence, name, belief, potentials)


def _add_component(
    evidence: Evidence,
    name: str,
    state: str,
    belief: JointBelief,
    posterior: LocalPosterior,
) -> None:
    component, place = belief.components[state].posterior, evidence.place(state)
    parts = dist.MultivariateNormal(
        component.mean, scale_tril=component.scale_tril, validate_args=False
    )
    probs = evidence.spread(name, belief.discrete.probs, place)
    weights = dist.Categorical(probs, validate_args=False)
    mixture = dist.MixtureSameFamily(weights, parts, validate_args=False)
    zero = jnp.zeros(place.batch_shape)  # the discrete site has the whole divergence
    posterior.add(state, mixture.to_event(place.extra), zero)
    posterior.components[state] = parts
    for factor in evidence.observed(GaussianFactor, parent=state):
        table = evidence.given_parent(
            factor, state, component.mean, component.covariance
        )
        states = evidence.spread(name, belief.discrete.probs, evidence.place(factor))
        value = jnp.sum(expected_said(states, table), -1)
        posterior.expect({factor.site: per_entry(value, evidence.place(factor))})
