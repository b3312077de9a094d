# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The bound that guesses of a start are judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.global_priors import divergence
from numpyro_svae.inference.local.all_sites import infer_locals
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.structure.factors import Structure

__all__ = ["bound_of"]

Naturals = dict[str, NaturalParameters]

_LOCAL_SWEEPS = 20
_TEMPERED_SWEEPS = 9


def bound_of(
    structure: Structure,
    bound: Bound,
    potentials: dict[str, Any],
    given: Naturals,
    mean_field: bool,
    fixed_point: FixedPoint,
) -> Callable[[Naturals], tuple[tuple[Array, dict[str, Array]], Naturals]]:
    """The bound, as a function of natural parameters that has natural gradients.

    :param structure: wiring of the program.
    :param bound: the program with its data.
    :param potentials: what the recognition function says.
    :param given: the blocks that may not move.
    :param mean_field: as in the guide.
    :param fixed_point: as in the guide; local sites have a few sweeps.
    :return: the bound with the means of latent paths, and its gradients.
    """
    few = min(_LOCAL_SWEEPS, fixed_point.max_sweeps)
    temper = min(_TEMPERED_SWEEPS, fixed_point.temper)
    options = replace(fixed_point, max_sweeps=few, temper=temper, gradient="stopped")

    def lower_bound(naturals: Naturals) -> tuple[Array, dict[str, Array]]:
        moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
        factors = ExpectedFactors(structure, bound, moments)
        local = infer_locals(factors, potentials, mean_field, options)
        value = sum(local.totals.values(), jnp.zeros(()))
        for name in naturals:
            loss = divergence(structure, bound, name, naturals, moments)
            value = value - bound.sites[name].scale * jnp.sum(loss)
        means = {
            n: local.marginals[n].mean
            for n, s in structure.locals.items()
            if s.chain and not s.discrete
        }
        return value, means

    gradient = jax.value_and_grad(lower_bound, has_aux=True)

    def rising(naturals: Naturals) -> tuple:
        found, rise = gradient(naturals)
        return found, rise | {name: rise[name].scale(0.0) for name in given}

    return rising
