# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The exact joint posterior of local sites that form a general graph.

Every factor becomes a term of the graph block, which eliminates the sites plate by
plate; expected statistics are the gradient of its log normaliser.
"""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.blocks import graph
from numpyro_svae.blocks.graph import (
    GaussianTerm,
    TableTerm,
)
from numpyro_svae.blocks.graph_terms import by_member, shared_plates
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.forms import Origins
from numpyro_svae.inference.local.beliefs import expected_logits
from numpyro_svae.inference.local.graph_terms import (
    logits_term,
    potential_term,
    term_of,
    uncounted_term,
)
from numpyro_svae.inference.local.joint_draw import JointDraw, plate_sizes
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.run.axes import Axes, axes_of
from numpyro_svae.program.structure.factors import Factor
from numpyro_svae.program.structure.graphs import variable_of
from numpyro_svae.program.structure.groups import Group, scope

__all__ = ["infer_graph"]

Term = GaussianTerm | TableTerm


def infer_graph(
    factors: ExpectedFactors,
    group: Group,
    messages: dict[str, Array],
    recognised: dict[str, Any],
    posterior: LocalPosterior,
) -> tuple[dict[str, Array], Array | None]:
    """Infer the sites of a graph jointly, and add them to a posterior.

    :param factors: the factors, given for each state.
    :param group: the sites.
    :param messages: the messages to each discrete site alone, ``(*positions, K)``.
    :param recognised: what the recognition function says.
    :param posterior: of all local sites.
    :return: probabilities of the discrete sites, ``(*positions, K)``, and the total of
        all, where it is known in a better form than that of its terms.
    """
    names = [n for n in factors.structure.locals if n in group.discrete + group.states]
    observed = _observed(factors, group)
    variables = tuple(variable_of(factors.local(n), factors.site(n)) for n in names)
    axes = tuple(axes_of(factors.site(name)) for name in names)
    sizes = plate_sizes((*axes, *(_axes(factors, f) for f in observed)))

    def terms_about(origins: Origins) -> list[Term]:
        """Priors, messages to single sites, and what is observed."""
        terms = [term_of(factors, factors.own(n), origins) for n in names]
        terms += [logits_term(factors, n, messages[n]) for n in group.discrete]
        for n in group.states:
            terms.append(potential_term(factors, n, recognised.get(n), origins))
        for factor in observed:
            scale = _scale(factors, group, factor)
            terms.append(term_of(factors, factor, origins, scale))
        return terms

    located = graph.locate(variables, sizes, terms_about({}))
    own = dict(zip(names, axes))
    origins = {n: own[n].to_positions(value) for n, value in located.items()}
    terms = tuple(terms_about(origins))
    found = graph.infer(variables, sizes, terms, located=True)
    values = [_expected(t, s) for t, s in zip(terms, found.terms)][len(names) :]
    shared = shared_plates(variables)
    kl = -found.log_normalizers
    for term, value in zip(terms[len(names) :], values):
        kl = kl + by_member(value, term.plates, shared)
    for factor, value in zip(observed, values[len(names) :]):
        extent = _axes(factors, factor).to_positions(value)
        entries = factors.site(factor.site).batch_shape
        value = jnp.sum(extent, tuple(range(len(entries), extent.ndim)))
        posterior.expect({factor.site: value / _scale(factors, group, factor)})
    shapes = tuple(sizes.items())
    masked = (uncounted_term(factors, factors.own(n), origins, True) for n in names)
    uncounted = tuple(term for term in masked if term is not None)
    draw = terms, uncounted, found.log_normalizers, located, variables, axes, shapes
    posterior.draws.append(JointDraw(*draw))
    probs: dict[str, Array] = {}
    for name in names:
        marginal, table = _marginal(own[name], found.variables[name], origins.get(name))
        posterior.add(name, marginal, own[name].share(kl / len(names), shared))
        if table is not None:
            probs[name] = table
    of_states = dict(zip(group.states, values[len(group.discrete) :]))
    potential_of = [value for name, value in of_states.items() if name in recognised]
    for name in recognised.keys() & probs.keys():
        potential_of.append(expected_logits(probs[name], recognised[name].logits))
    if any(factors.extent(name).mask is not None for name in names):
        return probs, None
    total = found.log_normalizer - sum(map(jnp.sum, potential_of), jnp.zeros(()))
    return probs, factors.extent(names[0]).scale * total


def _axes(factors: ExpectedFactors, factor: Factor) -> Axes:
    return axes_of(factors.site(factor.site), factors.extent(factor).extra)


def _scale(factors: ExpectedFactors, group: Group, factor: Factor) -> Array | float:
    """Scale of an observed site, in units of that of the graph."""
    first = factors.site((*group.discrete, *group.states)[0])
    return factors.site(factor.site).scale / first.scale


def _observed(factors: ExpectedFactors, group: Group) -> list[Factor]:
    """Factors of the observed sites that more than one site of the graph is in, or a
    Gaussian one."""
    members, found = {*group.discrete, *group.states}, []
    for factor in factors.observed("regression", "statistics", "density"):
        joined = scope(factors.structure, factor)
        alone = not factor.coupled and not factor.parents
        if alone or not members & set(joined):
            continue
        found.append(factor)
    return found


def _expected(term: Any, statistics: Any) -> Array:
    """The expectation of a term, by plate."""
    value = term.expected(statistics)
    return jnp.sum(value, tuple(range(len(term.plates), value.ndim)))


def _marginal(
    axes: Axes, found: Any, origin: Array | None
) -> tuple[dist.Distribution, Array | None]:
    """The marginal of a site, and the probabilities of its states if it has any.

    :param origin: of a Gaussian site.
    """
    extra = axes.extra
    if origin is not None:
        mean, covariance = map(axes.to_positions, found)
        marginal = dist.MultivariateNormal(
            mean + origin, covariance, validate_args=False
        )
        return marginal.to_event(extra), None
    probs = axes.to_positions(found)
    return dist.Categorical(probs, validate_args=False).to_event(extra), probs
