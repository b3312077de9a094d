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

from dataclasses import replace
from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.labels import known_labels
from numpyro_svae.inference.local.beliefs import observe_scored
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.graph import infer_graph
from numpyro_svae.inference.local.joint import JointBelief, infer_joint
from numpyro_svae.inference.local.on_demand import on_demand
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.product import Product, infer_product
from numpyro_svae.inference.local.product_belief import ProductBelief
from numpyro_svae.inference.local.recurrence import Recurrence
from numpyro_svae.inference.local.recurrent_product import infer_recurrent
from numpyro_svae.inference.local.totals import optimal_total, sum_of_terms
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.positions import clean
from numpyro_svae.program.structure.groups import Group, coupled_groups

__all__ = ["infer_locals"]

Potentials = dict[str, Any]
Logits = dict[str, Array]


def infer_locals(
    factors: ExpectedFactors,
    potentials: Potentials,
    mean_field: bool,
    options: FixedPoint,
    examine: bool = False,
) -> LocalPosterior:
    """Infer all local sites.

    :param factors: the factors.
    :param potentials: what the recognition function says, by site.
    :param mean_field: whether coupled sites are made independent under the guide.
    :param options: how the fixed point of a product of coupled sites is found.
    :param examine: whether to find out if implicit gradients can be solved for there.
    :return: their posterior.
    """
    factors, posterior = factors.with_weighted_rows(), LocalPosterior()
    posterior.expect(factors.data_log_probs())
    for name, value in posterior.expected_log_prob.items():
        posterior.impossible[name] = value == -jnp.inf
        posterior.totals[name] = factors.site(name).scale * jnp.sum(value)
    for group in coupled_groups(factors.structure):
        names = (*group.discrete, *group.states)
        recognised = {name: potentials[name] for name in names if name in potentials}
        known = factors, group, recognised
        if group.kind == "graph":
            posterior.include(*_infer_graph(*known))
        else:
            posterior.include(*_infer_group(*known, mean_field, options, examine))
    return posterior


def _infer_graph(
    factors: ExpectedFactors, group: Group, recognised: Potentials
) -> tuple[LocalPosterior, Array]:
    """The posterior of a graph, and its total."""
    own, messages = LocalPosterior(), _messages(factors, group, recognised)
    probs, total = infer_graph(factors, group, messages, recognised, own)
    observe_scored(factors, probs, own)
    return own, sum_of_terms(factors, own) if total is None else total


def _infer_group(
    factors: ExpectedFactors,
    group: Group,
    recognised: Potentials,
    mean_field: bool,
    options: FixedPoint,
    examine: bool,
) -> tuple[LocalPosterior, Array]:
    """The posterior of another group, and its total."""
    joint = group.kind == "mixture" and not mean_field

    def infer(
        bound: Bound, moments: dict[str, Any], rows: dict[tuple[str, str], Array]
    ) -> tuple[LocalPosterior, JointBelief | ProductBelief]:
        given = replace(factors, bound=bound, moments=moments, weighted_rows=rows)
        own = LocalPosterior()
        args = given, group, _messages(given, group, recognised), recognised
        belief: JointBelief | ProductBelief
        if joint:
            belief = infer_joint(*args)
        elif Recurrence.of(given, group):
            belief = infer_recurrent(Product.of(*args), options, own)
        else:
            belief = infer_product(Product.of(*args), options, own, examine)
        belief.add_to(own, given)
        return own, belief

    arrays = factors.bound, factors.moments, factors.weighted_rows
    best = _best(factors, group, joint, recognised)
    if best and not recognised:
        own, belief = on_demand(infer, *arrays)
    else:
        own, belief = infer(*arrays)
    total = sum_of_terms(factors, own)
    if best:
        total = optimal_total(factors, recognised, belief, total)
    return own, total


def _best(
    factors: ExpectedFactors, group: Group, joint: bool, recognised: Potentials
) -> bool:
    """Whether gradients take what is inferred as the best posterior of its kind.

    Observations of a position that is masked say nothing to it, and are scored all the
    same. Coordinate ascent may not have converged: what it ended at is taken as given
    where discrete sites depend on latent vectors, and where no recognition function
    speaks, as in all of variational message passing. Elsewhere it is differentiated.
    """
    names = (*group.discrete, *group.states)
    masked = any(factors.extent(name).mask is not None for name in names)
    alone = group.kind == "product" and len(names) == 1
    given = not recognised or bool(Recurrence.of(factors, group))
    return not masked and (joint or alone or given)


def _messages(
    factors: ExpectedFactors, group: Group, recognised: Potentials
) -> dict[str, Array]:
    """The messages to the discrete sites of a group that are not of its other sites."""
    return {name: _messages_to(factors, name, recognised) for name in group.discrete}


def _messages_to(factors: ExpectedFactors, name: str, potentials: Potentials) -> Array:
    """The sum of messages to a discrete site from data and the recognition function."""
    extent, size = factors.extent(name), factors.local(name).size
    message = jnp.zeros((*extent.positions, size))
    for factor in factors.scored(name):
        message = message + factors.to_selector(factor, factors.table(factor))
    recognised = potentials.get(name)
    if recognised is not None:
        message = message + clean(extent, recognised.logits)
    return message + known_labels(factors, name)
