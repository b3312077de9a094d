# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The natural parameters of the globals as parameters of NumPyro, with their starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array
import numpyro

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.start.given import natural_of
from numpyro_svae.inference.start.logits import begin_logits, begin_weights
from numpyro_svae.inference.start.search import Search, find_start
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.priors.digits import check_digits
from numpyro_svae.program.structure.checks import check_natural
from numpyro_svae.program.structure.factors import Structure

__all__ = ["natural_parameters"]


def natural_parameters(
    structure: Structure,
    name_of: Callable[[str], str],
    search: Search,
    bound: Bound,
    potentials: dict[str, Any],
    init: dict[str, Any],
    trace: dict[str, dict],
) -> dict[str, NaturalParameters]:
    """Natural parameters of the globals, by block.

    Where they have no values yet, all blocks start together, with the key of the first.

    :param structure: wiring of the program.
    :param name_of: the name of the parameter of a block.
    :param search: how a start is searched for.
    :param bound: the program with its data.
    :param potentials: what the recognition function says.
    :param init: starts that a user gives, by block.
    :param trace: of a run of the program, with its own parameters.
    """
    found: dict[str, NaturalParameters] = {}

    def start(name: str, key: Array) -> NaturalParameters:
        if not found:
            blocks = structure.priors.items()
            given = {n: natural_of(b, init[n]) for n, b in blocks if n in init}
            found.update(find_start(key, structure, search, bound, potentials, given))
            if not potentials:
                found.update(begin_weights(structure, bound, found, given))
        return found[name]

    naturals = {}
    for name in structure.priors:
        naturals[name] = numpyro.param(name_of(name), partial(start, name))
        if name in found:  # a fit may use up its digits
            check_digits(name, naturals[name])
        check_natural(name, naturals[name])
    if found and not potentials:
        begin_logits(structure, bound, naturals, init, trace)
    return naturals
