# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Local posteriors of programs that have likelihoods without a potential."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.gradient_messages import as_message
from numpyro_svae.inference.local.gradient_sweeps import Potentials, Sweeps
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.inference.local.sweep_starts import start_of
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods, Statics

__all__ = [
    "Ascent",
    "Found",
    "check_refine",
    "find_potentials",
    "with_likelihoods",
]

Naturals = dict[str, NaturalParameters]
Found = tuple[Potentials, dict[str, Convergence]]


@dataclass(frozen=True)
class Ascent:
    """How local posteriors are found.

    :param mean_field: whether coupled sites are made independent under the guide.
    :param fixed_point: how many sweeps there are, and when they end.
    :param rule: how expectations of likelihoods that are not conjugate are taken.
    :param refine: the most sweeps for vectors that a recognition function speaks to.
    """

    mean_field: bool
    fixed_point: FixedPoint
    rule: Rule
    refine: int


def check_refine(sweeps: Any) -> int:
    """A number of sweeps after a recognition function.

    :raises ValueError: if it is none.
    """
    if isinstance(sweeps, int) and sweeps >= 0:
        return sweeps
    raise ValueError(
        f"refine: found {sweeps!r}; accepted is a number of sweeps after the "
        "recognition function, zero for none."
    )


def find_potentials(
    structure: Structure,
    program: Program,
    ascent: Ascent,
    bound: Bound,
    naturals: Naturals,
    potentials: Potentials,
) -> Found:
    """The potentials of likelihoods that are given none or are refined, and how sweeps
    ended.

    No gradient flows into them: the bound is stationary in them.
    """
    if not structure.gradients:
        return {}, {}
    statics, arrays = Likelihoods.split(program)
    given = lax.stop_gradient((arrays, bound, naturals, potentials))
    return lax.stop_gradient(_find(structure, statics, ascent, *given))


@partial(jax.jit, static_argnames=("structure", "statics", "ascent"))
def _find(
    structure: Structure,
    statics: Statics,
    ascent: Ascent,
    arrays: dict[int, Any],
    bound: Bound,
    naturals: Naturals,
    potentials: Potentials,
) -> Found:
    likelihoods = Likelihoods(statics, arrays, structure)
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    factors = ExpectedFactors(structure, bound, moments)
    others = {n: p for n, p in potentials.items() if n not in structure.gradients}
    options = others, ascent.mean_field, ascent.fixed_point, ascent.rule
    sweeps = Sweeps(factors, likelihoods, *options)
    if not sweeps.senders:
        return {}, {}
    given = {}
    for name in sweeps.senders:
        if name in potentials:
            extent = factors.extent(name)
            given[name] = as_message(potentials[name], extent.positions, extent.mask)
    refined = [{*sweeps.targets(datum)} <= set(given) for datum in sweeps.data]
    most = ascent.fixed_point.max_sweeps
    start = start_of(sweeps, given)
    limits = tuple(ascent.refine if own else most for own in refined)
    point, ends = sweeps.run(start, limits)
    ended: dict[str, Convergence] = {}
    for i, (datum, found) in enumerate(zip(sweeps.data, ends)):
        if refined[i]:
            found = replace(found, gain=point.bound[i] - start.bound[i])
        ended |= dict.fromkeys(datum.targets, found)
    return point.current, ended


def with_likelihoods(
    structure: Structure,
    program: Program,
    rule: Rule,
    bound: Bound,
    local: LocalPosterior,
    ended: dict[str, Convergence],
) -> LocalPosterior:
    """A posterior with the expected log likelihoods, where points stand for them.

    :param structure: the wiring.
    :param program: the program.
    :param rule: the points.
    :param bound: the program with its data.
    :param local: the posterior of the local sites at the potentials.
    :param ended: how the sweeps ended that found these.
    """
    if not ended:
        return local
    statics, arrays = Likelihoods.split(program)
    terms = _expected(structure, statics, rule, arrays, bound, local.marginals)
    sampled = {n: used for n, used in structure.likelihoods.items() if n not in terms}
    needed = frozenset[str]().union(*sampled.values())
    local = replace(
        local,
        expected_log_prob=local.expected_log_prob | terms,
        totals=dict(local.totals),
        convergence=dict(local.convergence),
        average={n: p for n, p in local.average.items() if n in needed},
    )
    for name, value in terms.items():
        local.totals[name] = jnp.sum(bound.sites[name].scale * value)
    for name, found in ended.items():
        local.convergence[name] = _worse(found, local.convergence.get(name))
    return local


@partial(jax.jit, static_argnames=("structure", "statics", "rule"))
def _expected(
    structure: Structure,
    statics: Statics,
    rule: Rule,
    arrays: dict[int, Any],
    bound: Bound,
    marginals: dict[str, Any],
) -> dict[str, Array]:
    likelihoods = Likelihoods(statics, arrays, structure)
    factors = ExpectedFactors(structure, bound, {})
    sweeps = Sweeps(factors, likelihoods, {}, False, FixedPoint(), rule)
    stand = list(filter(sweeps.expectations.stands, sweeps.sending))
    moments = sweeps.moments(LocalPosterior(marginals=marginals))
    return sweeps.expectations.of(stand, moments)


def _worse(found: Convergence, inner: Convergence | None) -> Convergence:
    """How sweeps ended of which each has sweeps of its own."""
    if inner is None:
        return found
    residual = jnp.maximum(found.residual, inner.residual)
    return replace(found, residual=residual, adjoint=inner.adjoint)
