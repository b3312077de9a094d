# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factors of a program as terms of the graph block, at the current expectations."""

from __future__ import annotations

from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph import GaussianTerm, TableTerm
from numpyro_svae.inference.beliefs import heard
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.forms import form_of
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.axes import axes_of
from numpyro_svae.program.factors import Factor
from numpyro_svae.program.places import clean

__all__ = ["said_term", "spoken_term", "term_of"]

Scale = Array | float


def term_of(
    evidence: Evidence, factor: Factor, scale: Scale = 1.0
) -> GaussianTerm | TableTerm:
    """A factor as a term.

    :param evidence: the factors, given for each state.
    :param factor: the prior of a site, or an observed factor.
    :param scale: factor of its log density, if its site is observed.
    """
    form = form_of(evidence, factor)
    observed = factor.site not in evidence.structure.locals
    axes = axes_of(evidence.site(factor.site), form.place.extra)
    sizes = tuple(evidence.local(name).size for name in form.selectors)

    def arrange(value: Array, event_dim: int) -> Array:
        event = value.shape[value.ndim - event_dim :]
        value = jnp.broadcast_to(value, (*form.place.positions, *sizes, *event))
        if observed:
            value = scale * clean(form.place, value, event_dim + len(sizes))
        return axes.to_plates(value, event_dim + len(sizes))

    constant = arrange(form.constant, 0)
    if not form.vectors:
        return TableTerm(form.selectors, axes.plates, constant)
    info, precision = arrange(form.info, 1), arrange(form.precision, 2)
    names = form.vectors, form.selectors, axes.plates
    return GaussianTerm(*names, info, precision, constant)


def said_term(evidence: Evidence, name: str, said: Array) -> TableTerm:
    """What is said of a discrete site alone, ``(*positions, K)``."""
    axes = axes_of(evidence.site(name))
    return TableTerm((name,), axes.plates, axes.to_plates(said, 1))


def spoken_term(
    evidence: Evidence, name: str, spoken: GaussianPotential | None
) -> GaussianTerm:
    """What the recognition function says of a Gaussian site."""
    axes, potential = axes_of(evidence.site(name)), heard(evidence, name, spoken)
    info = axes.to_plates(potential.info_vector, 1)
    precision = axes.to_plates(potential.full_precision(), 2)
    zero = jnp.zeros(axes.sizes)
    return GaussianTerm((name,), (), axes.plates, info, precision, zero)
