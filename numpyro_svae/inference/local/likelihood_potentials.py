# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Local posteriors of programs with factors that are not conjugate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.evidence import Evidence
from numpyro_svae.inference.local.cubature import Cubature
from numpyro_svae.inference.local.engine import local_posterior
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.gradient_messages import moments_of
from numpyro_svae.inference.local.gradient_sweeps import Sweeps
from numpyro_svae.inference.local.nonlinear_chains import (
    live_steps,
    nonlinear_names,
    transitions_of,
    with_steps,
)
from numpyro_svae.inference.local.nonlinear_steps import bound_points
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.inference.local.sweep_messages import Said
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods, Statics

__all__ = ["local_posterior_with_messages"]

Naturals = dict[str, NaturalParameters]
Found = tuple[Said, dict[str, Convergence]]
_STATIC = ("structure", "statics", "mean_field", "fixed_point", "rule")


def local_posterior_with_messages(
    structure: Structure,
    program: Program,
    mean_field: bool,
    fixed_point: FixedPoint,
    rule: Cubature,
    bound: Bound,
    naturals: Naturals,
    potentials: dict[str, Any],
    examine: bool = False,
) -> LocalPosterior:
    """Infer the local sites of a program, at messages that are found in sweeps first.

    :param structure: the wiring.
    :param program: the program.
    :param mean_field: whether coupled sites are made independent.
    :param fixed_point: how many sweeps there are, and when they end.
    :param rule: how expectations are taken.
    :param bound: the program with its data.
    :param naturals: natural parameters of the global blocks.
    :param potentials: what the recognition function says.
    :param examine: whether to find out if implicit gradients can be solved for.
    """
    options = mean_field, fixed_point
    said, ended = _find_messages(
        structure, program, *options, rule, bound, naturals, potentials
    )
    bound = _with_steps(structure, program, rule, bound, said)
    told = said.beside(potentials)
    local = local_posterior(structure, *options, bound, naturals, told, examine=examine)
    if not ended:
        return local
    return _with_expectations(structure, program, rule, bound, naturals, local, ended)


def _find_messages(
    structure: Structure,
    program: Program,
    mean_field: bool,
    fixed_point: FixedPoint,
    rule: Cubature,
    bound: Bound,
    naturals: Naturals,
    potentials: dict[str, Any],
) -> Found:
    """The messages of factors that are not conjugate, and how sweeps ended.

    They are those of likelihoods that are given no potential, and of the steps of
    chains that are not linear. No gradient flows into them: the bound is stationary in
    them.
    """
    if not structure.gradients and not nonlinear_names(structure):
        return Said({}, {}), {}
    statics, arrays = Likelihoods.split(program)
    options = structure, statics, mean_field, fixed_point, rule
    given = lax.stop_gradient((arrays, bound, naturals, potentials))
    return lax.stop_gradient(_find(*options, *given))


@partial(jax.jit, static_argnames=_STATIC)
def _find(
    structure: Structure,
    statics: Statics,
    mean_field: bool,
    fixed_point: FixedPoint,
    rule: Cubature,
    arrays: dict[int, Any],
    bound: Bound,
    naturals: Naturals,
    potentials: dict[str, Any],
) -> Found:
    likelihoods = Likelihoods(statics, arrays, structure)
    evidence = _evidence(structure, bound, naturals)
    options = potentials, mean_field, fixed_point, rule
    return Sweeps(evidence, likelihoods, *options).find()


def _evidence(structure: Structure, bound: Bound, naturals: Naturals) -> Evidence:
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    return Evidence(structure, bound, moments)


def _with_steps(
    structure: Structure,
    program: Program,
    rule: Cubature,
    bound: Bound,
    said: Said,
) -> Bound:
    """A program with its data, with linear steps in the place of those of its chains.

    A posterior has gradients with respect to the parameters of a transition as if this
    was linear, with matrices that are functions of them.
    """
    if not said.steps:
        return bound
    statics, arrays = Likelihoods.split(program)
    return _linear(structure, statics, rule, arrays, bound, said)


@partial(jax.jit, static_argnames=("structure", "statics", "rule"))
def _linear(
    structure: Structure,
    statics: Statics,
    rule: Cubature,
    arrays: dict[int, Any],
    bound: Bound,
    said: Said,
) -> Bound:
    likelihoods = Likelihoods(statics, arrays, structure)
    steps = live_steps(transitions_of(likelihoods), said.steps, rule)
    return with_steps(bound, steps)


def _with_expectations(
    structure: Structure,
    program: Program,
    rule: Cubature,
    bound: Bound,
    naturals: Naturals,
    local: LocalPosterior,
    ended: dict[str, Convergence],
) -> LocalPosterior:
    """A posterior with what is expected of factors that are not conjugate.

    It is that of the log likelihoods, where points stand for them, and of what steps
    that are not linear add to the linear ones in their place.

    :param structure: the wiring.
    :param program: the program.
    :param rule: the points.
    :param bound: the program with its data, and with linear steps.
    :param naturals: natural parameters of the global blocks.
    :param local: the posterior of the local sites at the messages.
    :param ended: how the sweeps ended that found these.
    """
    statics, arrays = Likelihoods.split(program)
    marginals = {name: local.marginals[name] for name in ended}
    args = structure, statics, rule, arrays, bound, naturals, marginals, program.key
    terms, gaps = _expected(*args)
    local = replace(
        local,
        kl=local.kl | {name: local.kl[name] - gap for name, gap in gaps.items()},
        expected_log_prob=local.expected_log_prob | terms,
        totals=dict(local.totals),
        convergence=dict(local.convergence),
    )
    for name, value in (terms | gaps).items():
        value = jnp.sum(bound.sites[name].scale * value)
        local.totals[name] = local.totals.get(name, jnp.zeros(())) + value
    for name, found in ended.items():
        local.convergence[name] = _worse(found, local.convergence.get(name))
    return local


@partial(jax.jit, static_argnames=("structure", "statics", "rule"))
def _expected(
    structure: Structure,
    statics: Statics,
    rule: Cubature,
    arrays: dict[int, Any],
    bound: Bound,
    naturals: Naturals,
    marginals: dict[str, Any],
    key: Array,
) -> tuple[dict[str, Array], dict[str, Array]]:
    likelihoods = Likelihoods(statics, arrays, structure)
    evidence = _evidence(structure, bound, naturals)
    sweeps = Sweeps(evidence, likelihoods, {}, False, FixedPoint(), rule)
    found: dict[str, Array] = {}
    for name in sweeps.senders:
        if rule.is_product(structure.locals[name].size):
            positions = evidence.place(name).positions
            moments = moments_of(marginals[name], positions)
            found |= sweeps.expected(name, sweeps.senders[name], moments)
    chains, points = sweeps.chains, {}
    for name in chains.transitions:
        pairs = chains.pairs(name, marginals[name])
        points[name] = bound_points(rule, pairs.before, key)
    return found, chains.corrected(marginals, points)


def _worse(found: Convergence, inner: Convergence | None) -> Convergence:
    """How sweeps ended of which each has sweeps of its own."""
    if inner is None:
        return found
    return replace(
        inner, sweeps=found.sweeps, residual=jnp.maximum(found.residual, inner.residual)
    )
