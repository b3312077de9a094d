# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a recognition function learns where sweeps refine what it says.

The bound is that of the refined posterior q*, with q* held fixed, and knows nothing of
the recognition function. This one descends KL(q || q*), where q is the posterior at
what it says. For potentials l and l*, with the mean parameters m of q, the gradient is

    dKL  =  (l - l*) dm,

that of what the sweeps have added, expected under q. After one whole sweep l* is where
the messages at q are, and this is the gradient of the bound of q.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.local.ascent import Ascent
from numpyro_svae.inference.local.engine import local_posterior
from numpyro_svae.inference.local.gradient_messages import (
    as_message,
    mean_and_covariance,
)
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.sweep_messages import Messages
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.positions import extent_of, per_entry
from numpyro_svae.program.structure.factors import Structure

__all__ = ["with_lessons"]

Potentials = dict[str, Any]


def with_lessons(
    structure: Structure,
    ascent: Ascent,
    bound: Bound,
    naturals: dict[str, NaturalParameters],
    potentials: Potentials,
    found: Messages,
    local: LocalPosterior,
) -> LocalPosterior:
    """A posterior whose divergences have the gradient of KL(q || q*), and their value.

    :param structure: the wiring.
    :param ascent: how posteriors are found.
    :param bound: the program with its data.
    :param naturals: natural parameters of the global blocks.
    :param potentials: what the recognition function says.
    :param found: the messages that sweeps ended at.
    :param local: the posterior there.
    """
    refined = [name for name in found.potentials if name in potentials]
    if not refined:
        return local
    known = lax.stop_gradient((bound, naturals))
    options = structure, ascent.mean_field, ascent.fixed_point
    told = Messages({}, lax.stop_gradient(found.steps)).beside(potentials)
    before = local_posterior(*options, *known, told)
    kl, totals = dict(local.kl), dict(local.totals)
    for name in refined:
        site = bound.sites[name]
        extent = extent_of(site)
        message = as_message(potentials[name], extent.positions, extent.mask)
        added = _added(lax.stop_gradient(message), found.potentials[name])
        moments = before.marginals[name], extent.positions
        mean, covariance = mean_and_covariance(*moments)
        origin = lax.stop_gradient(mean)
        value = added.about(origin).expected(mean - origin, covariance)
        value = per_entry(value, extent)
        lesson = value - lax.stop_gradient(value)
        kl[name] = kl[name] - lesson
        total = jnp.sum(site.scale * lesson)
        totals[name] = totals.get(name, 0.0) + total
    return replace(local, kl=kl, totals=totals)


def _added(message: GaussianPotential, found: GaussianPotential) -> GaussianPotential:
    """What sweeps have added to the potentials; its precision may have any sign."""
    info: Array = found.info_vector - message.info_vector
    return GaussianPotential(info, found.precision - message.precision)
