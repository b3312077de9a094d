# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factors of a program as terms of the graph block, at the current expectations."""

from __future__ import annotations

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph import GaussianTerm, TableTerm
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.forms import Form, Origins, form_of
from numpyro_svae.inference.local.beliefs import potential_of
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.axes import axes_of
from numpyro_svae.program.run.positions import clean, extent_of
from numpyro_svae.program.structure.factors import Factor

__all__ = ["logits_term", "potential_term", "term_of", "uncounted_term"]

Scale = Array | float
Term = GaussianTerm | TableTerm


def term_of(
    factors: ExpectedFactors, factor: Factor, origins: Origins, scale: Scale = 1.0
) -> Term:
    """A factor as a term; where it is masked, a prior is the proper one closest to it.

    :param factors: the factors, given for each state.
    :param factor: the prior of a site, or an observed factor.
    :param origins: what is taken off Gaussian sites.
    :param scale: factor of its log density, if its site is observed.
    """
    form = form_of(factors, factor, origins)
    if factor.site not in factors.structure.locals:
        return _arranged(factors, form, scale, form.extent.mask)
    term, uncounted = (
        _arranged(factors, form),
        uncounted_term(factors, factor, origins),
    )
    if uncounted is None:
        return term
    counted = _arranged(factors, form, 1.0, form.extent.mask)
    return jax.tree.map(jnp.add, counted, uncounted)


def uncounted_term(
    factors: ExpectedFactors, factor: Factor, origins: Origins, drawn: bool = False
) -> Term | None:
    """A prior where its site is masked, proper, and zero elsewhere.

    A masked position has this prior under the guide, and neither the density of the
    program nor that of the guide counts it. None if there is no mask.

    :param drawn: whether it is for the density of a draw. The program counts a leaf,
        on which nothing depends, as any other site, but in the bound it has no part.
    """
    form = form_of(factors, factor, origins, proper=True)
    mask = form.extent.mask
    if drawn and factor.site in factors.structure.leaves:
        site = factors.site(factor.site)
        mask = extent_of(site, factor.role, factor.event_dim).mask
    return None if mask is None else _arranged(factors, form, 1.0, ~mask)


def _arranged(
    factors: ExpectedFactors, form: Form, scale: Scale = 1.0, mask: Array | None = None
) -> Term:
    """A form by plates, zero where it is masked."""
    axes = axes_of(factors.site(form.factor.site), form.extent.extra)
    sizes = tuple(factors.local(name).size for name in form.selectors)
    extent = form.extent._replace(mask=mask)

    def arrange(value: Array, event_dim: int) -> Array:
        event = value.shape[value.ndim - event_dim :]
        value = jnp.broadcast_to(value, (*extent.positions, *sizes, *event))
        value = scale * clean(extent, value, event_dim + len(sizes))
        return axes.to_plates(value, event_dim + len(sizes))

    constant = arrange(form.constant, 0)
    if not form.vectors:
        return TableTerm(form.selectors, axes.plates, constant)
    info, precision = arrange(form.info, 1), arrange(form.precision, 2)
    names = form.vectors, form.selectors, axes.plates
    return GaussianTerm(*names, info, precision, constant)


def logits_term(factors: ExpectedFactors, name: str, message: Array) -> TableTerm:
    """The messages to a discrete site alone, ``(*positions, K)``."""
    axes = axes_of(factors.site(name))
    return TableTerm((name,), axes.plates, axes.to_plates(message, 1))


def potential_term(
    factors: ExpectedFactors,
    name: str,
    recognised: GaussianPotential | None,
    origins: Origins,
) -> GaussianTerm:
    """What the recognition function says of a Gaussian site, but for a constant."""
    axes, potential = (
        axes_of(factors.site(name)),
        potential_of(factors, name, recognised),
    )
    if recognised is not None and name in origins:
        potential = potential.about(origins[name])
    info = axes.to_plates(potential.info_vector, 1)
    precision = axes.to_plates(potential.full_precision(), 2)
    zero = jnp.zeros(axes.sizes)
    return GaussianTerm((name,), (), axes.plates, info, precision, zero)
