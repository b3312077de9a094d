# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Checks that the sites of a call are what they were when the program was read.

A flag among the arguments may give a site another distribution. What was read of the
first one would be said of the second, if it has parameters of the same names.
"""

from __future__ import annotations

from numpyro_svae.program.run.kinds import kind_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Structure

__all__ = ["check_classes", "classes_of"]


def classes_of(sites: dict[str, Site]) -> dict[str, str]:
    """What sites are, alike for those that are read alike."""
    return {name: _class_of(site) for name, site in sites.items()}


def _class_of(site: Site) -> str:
    kind = kind_of(site.fn)
    if kind is not None:
        return kind.name
    return type(site.fn).__name__.removesuffix("Probs").removesuffix("Logits")


def check_classes(structure: Structure, sites: dict[str, Site]) -> None:
    """Sites that were read, and not only evaluated, must be what they were.

    :param structure: the wiring.
    :param sites: the sites of a run, of any call.
    :raises ValueError: naming a site that is not there or is something else.
    """
    read = {name for prior in structure.priors.values() for name in prior.sites}
    read |= {factor.site for factor in structure.factors if factor.form != "density"}
    for name in sorted(read.union(structure.locals)):
        was = structure.classes.get(name)
        found = _class_of(sites[name]) if name in sites else "no such site"
        if was is not None and found != was:
            raise ValueError(
                f"Site '{name}': found {found}, and when the guide was set up it was "
                f"{was}. AutoSVAE reads its model once. Accepted: arguments with which "
                "sites have the distributions that they had then; for those with which "
                "the model is another one, as flags may be, a guide of their own."
            )
