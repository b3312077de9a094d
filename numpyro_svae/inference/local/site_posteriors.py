# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors of the local sites of a program."""

from __future__ import annotations

from typing import Any

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.local.ascent import Ascent
from numpyro_svae.inference.local.engine import local_posterior
from numpyro_svae.inference.local.found_messages import (
    find_messages,
    with_expectations,
    with_linear_steps,
)
from numpyro_svae.inference.local.kept_messages import KeptMessages
from numpyro_svae.inference.local.lessons import with_lessons
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Structure

__all__ = ["site_posteriors"]


def site_posteriors(
    structure: Structure,
    program: Program,
    ascent: Ascent,
    bound: Bound,
    naturals: dict[str, NaturalParameters],
    potentials: dict[str, Any],
    *,
    kept: KeptMessages | None = None,
    examine: bool = False,
) -> LocalPosterior:
    """Posteriors of the local sites: the messages to them, then their inference.

    :param structure: the wiring.
    :param program: the program.
    :param ascent: how they are found.
    :param bound: the program with its data.
    :param naturals: natural parameters of the global blocks.
    :param potentials: what the recognition function says.
    :param kept: where messages are kept from step to step.
    :param examine: whether convergence is looked at.
    """
    kept = kept or KeptMessages(None)
    known = bound, naturals, potentials
    found, ended = find_messages(structure, program, ascent, *known, kept.start)
    kept.keep(found)
    read = structure, program, ascent.rule
    linear, told = with_linear_steps(*read, *known[:2], found, potentials)
    given = linear, naturals
    options = structure, ascent.mean_field, ascent.fixed_point
    local = local_posterior(*options, *given, told, examine=examine)
    local = with_expectations(*read, *given, local, ended)
    return with_lessons(structure, ascent, *given, potentials, found, local)
