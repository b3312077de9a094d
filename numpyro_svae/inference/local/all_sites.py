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

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.labels import known_labels
from numpyro_svae.inference.local.beliefs import observe_scored
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.graph import infer_graph
from numpyro_svae.inference.local.joint import JointBelief, infer_joint
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.product import Product, infer_product
from numpyro_svae.inference.local.product_belief import ProductBelief
from numpyro_svae.inference.local.recurrence import Recurrence
from numpyro_svae.inference.local.recurrent_product import infer_recurrent
from numpyro_svae.inference.local.totals import optimal_total, sum_of_terms
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
        messages = {
            name: _messages_to(factors, name, potentials) for name in group.discrete
        }
        own = LocalPosterior()
        if group.kind == "graph":
            probs, total = infer_graph(factors, group, messages, potentials, own)
            observe_scored(factors, probs, own)
            total = sum_of_terms(factors, own) if total is None else total
        else:
            args = factors, group, messages, potentials
            joint = group.kind == "mixture" and not mean_field
            belief: JointBelief | ProductBelief
            if joint:
                belief = infer_joint(*args)
            elif Recurrence.of(factors, group):
                belief = infer_recurrent(Product.of(*args), options, own)
            else:
                belief = infer_product(Product.of(*args), options, own, examine)
            belief.add_to(own, factors)
            total = sum_of_terms(factors, own)
            if _best(factors, group, joint):
                recognised = {n: p for n, p in potentials.items() if n in own.kl}
                total = optimal_total(factors, recognised, belief, total)
        posterior.include(own, total)
    return posterior


def _best(factors: ExpectedFactors, group: Group, joint: bool) -> bool:
    """Whether what is inferred is the best posterior of its kind for its total.

    Observations of a position that is masked say nothing to it, and are scored all the
    same. Coordinate ascent may not have converged; where discrete sites depend on
    latent vectors, gradients take what it ended at as given all the same.
    """
    names = (*group.discrete, *group.states)
    masked = any(factors.extent(name).mask is not None for name in names)
    alone = group.kind == "product" and len(names) == 1
    return not masked and (joint or alone or bool(Recurrence.of(factors, group)))


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
