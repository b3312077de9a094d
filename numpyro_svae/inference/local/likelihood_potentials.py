# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Local posteriors of programs that have likelihoods without a potential."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.cubature import Cubature
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.gradient_messages import moments_of
from numpyro_svae.inference.local.gradient_sweeps import Sweeps
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods, Statics

__all__ = ["Found", "find_potentials", "with_likelihoods"]

Naturals = dict[str, NaturalParameters]
Found = tuple[dict[str, GaussianPotential], dict[str, Convergence]]
_STATIC = ("structure", "statics", "mean_field", "fixed_point", "rule")


def find_potentials(
    structure: Structure,
    program: Program,
    mean_field: bool,
    fixed_point: FixedPoint,
    rule: Cubature,
    bound: Bound,
    naturals: Naturals,
    potentials: dict[str, Any],
) -> Found:
    """The potentials of likelihoods that are given none, and how sweeps ended.

    No gradient flows into them: the bound is stationary in them.
    """
    if not structure.gradients:
        return {}, {}
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
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    factors = ExpectedFactors(structure, bound, moments)
    options = potentials, mean_field, fixed_point, rule
    return Sweeps(factors, likelihoods, *options).find()


def with_likelihoods(
    structure: Structure,
    program: Program,
    rule: Cubature,
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
    names = [n for n in ended if rule.is_product(structure.locals[n].size)]
    statics, arrays = Likelihoods.split(program)
    marginals = {name: local.marginals[name] for name in names}
    args = structure, statics, rule, arrays, bound, marginals
    terms = _expected(*args)
    local = replace(
        local,
        expected_log_prob=local.expected_log_prob | terms,
        totals=dict(local.totals),
        convergence=dict(local.convergence),
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
    rule: Cubature,
    arrays: dict[int, Any],
    bound: Bound,
    marginals: dict[str, Any],
) -> dict[str, Array]:
    likelihoods = Likelihoods(statics, arrays, structure)
    sweeps = Sweeps(
        ExpectedFactors(structure, bound, {}),
        likelihoods,
        {},
        False,
        FixedPoint(),
        rule,
    )
    found: dict[str, Array] = {}
    for name, marginal in marginals.items():
        moments = moments_of(marginal, sweeps.factors.extent(name).positions)
        found |= sweeps.expected(name, sweeps.senders[name], moments)
    return found


def _worse(found: Convergence, inner: Convergence | None) -> Convergence:
    """How sweeps ended of which each has sweeps of its own."""
    if inner is None:
        return found
    return replace(
        inner, sweeps=found.sweeps, residual=jnp.maximum(found.residual, inner.residual)
    )
