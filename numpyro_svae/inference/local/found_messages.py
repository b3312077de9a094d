# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Local posteriors of programs with factors that are not conjugate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.distributions.kl import with_moments
from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.ascent import Ascent
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.datum_bounds import Datum
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.gradient_messages import as_message
from numpyro_svae.inference.local.linearise import linearise
from numpyro_svae.inference.local.messenger import Messenger, Potentials
from numpyro_svae.inference.local.nonlinear_chains import (
    AllSteps,
    Chains,
    nonlinear_names,
)
from numpyro_svae.inference.local.nonlinear_steps import bound_points
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.inference.local.sweep_loop import sweep
from numpyro_svae.inference.local.sweep_messages import Messages
from numpyro_svae.inference.local.sweep_starts import Kept, Starts, messages_like
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods, Statics
from numpyro_svae.shared_programs import shared_jit

__all__ = [
    "find_messages",
    "like_messages",
    "with_expectations",
    "with_linear_steps",
]

Naturals = dict[str, NaturalParameters]
Found = tuple[Messages, dict[str, Convergence]]


def find_messages(
    structure: Structure,
    program: Program,
    ascent: Ascent,
    bound: Bound,
    naturals: Naturals,
    potentials: Potentials,
    kept: Kept | None = None,
) -> Found:
    """The messages of factors that are not conjugate, and how sweeps ended.

    They are those of likelihoods that are given no potential or refine it, and of the
    steps of chains that are not linear. No gradient flows into them: the bound is
    stationary in them.

    :param structure: the wiring.
    :param program: the program.
    :param ascent: how they are found.
    :param bound: the program with its data.
    :param naturals: natural parameters of the global blocks.
    :param potentials: what the recognition function says.
    :param kept: where they ended before, which is a start.
    """
    if not structure.gradients and not nonlinear_names(structure):
        return Messages({}, {}), {}
    statics, arrays = Likelihoods.split(program)
    given = lax.stop_gradient((arrays, bound, naturals, potentials, kept))
    return lax.stop_gradient(_find(structure, statics, ascent, *given))


@shared_jit
def _find(
    structure: Structure,
    statics: Statics,
    ascent: Ascent,
    arrays: dict[int, Any],
    bound: Bound,
    naturals: Naturals,
    potentials: Potentials,
    kept: Kept | None,
) -> Found:
    likelihoods = Likelihoods(statics, arrays, structure)
    factors = _factors(structure, bound, naturals)
    others = {n: p for n, p in potentials.items() if n not in structure.gradients}
    options = others, ascent.mean_field, ascent.fixed_point, ascent.rule
    messenger = Messenger(factors, likelihoods, *options)
    if not messenger.data:
        return Messages({}, {}), {}
    if not (ascent.fixed_point.guarded or messenger.senders):
        start = None if kept is None else (kept.known, kept.messages.steps)
        return linearise(messenger, ascent.fixed_point.max_sweeps, start)
    given = {}
    for name in messenger.senders:
        if name in potentials:
            extent = factors.extent(name)
            given[name] = as_message(potentials[name], extent.positions, extent.mask)
    refined = [_is_refined(messenger, datum, given) for datum in messenger.data]
    most = ascent.fixed_point.max_sweeps
    limits = tuple(ascent.refine if own else most for own in refined)
    swept = sweep(messenger, Starts(messenger, given, kept), limits)
    ended: dict[str, Convergence] = {}
    for i, (datum, found) in enumerate(zip(messenger.data, swept.ends)):
        if refined[i]:
            found = replace(found, gain=swept.point.bound[i] - swept.begun[i])
        ended |= dict.fromkeys(datum.targets, found)
    return swept.point.current, ended


def like_messages(
    structure: Structure,
    program: Program,
    ascent: Ascent,
    bound: Bound,
    naturals: Naturals,
) -> Messages:
    """Messages of the shapes of those of a program that is given no potentials.

    :param structure: the wiring.
    :param program: the program.
    :param ascent: how they are found.
    :param bound: the program with its data.
    :param naturals: natural parameters of the global blocks.
    """
    if not structure.gradients and not nonlinear_names(structure):
        return Messages({}, {})
    likelihoods = Likelihoods(*Likelihoods.split(program), structure)
    factors = _factors(structure, bound, naturals)
    options = ascent.mean_field, ascent.fixed_point, ascent.rule
    messenger = Messenger(factors, likelihoods, {}, *options)
    return messages_like(messenger, {}) if messenger.data else Messages({}, {})


def _is_refined(messenger: Messenger, datum: Datum, given: Potentials) -> bool:
    """Whether all that sweeps find of some data is what a potential is given for."""
    vectors = {*messenger.targets(datum)}
    linear = not messenger.chains.transitions.keys() & {*datum.targets}
    return bool(vectors) and vectors <= given.keys() and linear


def _factors(structure: Structure, bound: Bound, naturals: Naturals) -> ExpectedFactors:
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    return ExpectedFactors(structure, bound, moments)


def with_linear_steps(
    structure: Structure,
    program: Program,
    rule: Rule,
    bound: Bound,
    naturals: Naturals,
    messages: Messages,
    potentials: Potentials,
) -> tuple[Bound, Potentials]:
    """A program with its data, with linear steps in the place of those of its chains.

    A posterior has gradients with respect to the parameters of a transition as if this
    was linear, with matrices that are functions of them.

    :param structure: the wiring.
    :param program: the program.
    :param rule: the points.
    :param bound: the program with its data.
    :param naturals: natural parameters of the global blocks.
    :param messages: where sweeps ended.
    :param potentials: what the recognition function says.
    :return: and what the local sites are told.
    """
    if messages.steps:
        statics, arrays = Likelihoods.split(program)
        known = arrays, bound, naturals, messages.steps
        bound, steps = _linear(structure, statics, rule, *known)
        messages = messages._replace(steps=steps)
    return bound, messages.beside(potentials)


@shared_jit
def _linear(
    structure: Structure,
    statics: Statics,
    rule: Rule,
    arrays: dict[int, Any],
    bound: Bound,
    naturals: Naturals,
    steps: AllSteps,
) -> tuple[Bound, AllSteps]:
    likelihoods = Likelihoods(statics, arrays, structure)
    factors = _factors(structure, bound, naturals)
    return Chains.of(factors, likelihoods, rule).live(steps)


def with_expectations(
    structure: Structure,
    program: Program,
    rule: Rule,
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
    if not ended:
        return local
    statics, arrays = Likelihoods.split(program)
    args = structure, statics, rule, arrays, bound, naturals, local.marginals
    terms, gaps = _expected(*args, program.key)
    sampled = {n: used for n, used in structure.likelihoods.items() if n not in terms}
    needed = frozenset[str]().union(*sampled.values())
    local = replace(
        local,
        kl=local.kl | {name: local.kl[name] - gap for name, gap in gaps.items()},
        expected_log_prob=local.expected_log_prob | terms,
        totals=dict(local.totals),
        convergence=dict(local.convergence),
        average={n: p for n, p in local.average.items() if n in needed},
    )
    for name, value in (terms | gaps).items():
        value = jnp.sum(bound.sites[name].scale * value)
        local.totals[name] = local.totals.get(name, jnp.zeros(())) + value
    for name, found in ended.items():
        local.convergence[name] = _worse(found, local.convergence.get(name))
    return local


@shared_jit
def _expected(
    structure: Structure,
    statics: Statics,
    rule: Rule,
    arrays: dict[int, Any],
    bound: Bound,
    naturals: Naturals,
    marginals: dict[str, Any],
    key: Array,
) -> tuple[dict[str, Array], dict[str, Array]]:
    marginals = {
        name: with_moments(fn) if isinstance(fn, LinearGaussianChain) else fn
        for name, fn in marginals.items()
    }
    likelihoods = Likelihoods(statics, arrays, structure)
    factors = _factors(structure, bound, naturals)
    messenger = Messenger(factors, likelihoods, {}, False, FixedPoint(), rule)
    stand = list(filter(messenger.expectations.stands, messenger.sending))
    moments = messenger.moments(LocalPosterior(marginals=marginals))
    chains, points = messenger.chains, {}
    for name in chains.transitions:
        pairs = chains.pairs(name, marginals[name])
        points[name] = bound_points(rule, pairs.before, key)
    terms = messenger.expectations.of(stand, moments)
    return terms, chains.corrected(marginals, points)


def _worse(found: Convergence, inner: Convergence | None) -> Convergence:
    """How sweeps ended of which each has sweeps of its own."""
    if inner is None:
        return found
    residual = jnp.maximum(found.residual, inner.residual)
    return replace(found, residual=residual, adjoint=inner.adjoint)
