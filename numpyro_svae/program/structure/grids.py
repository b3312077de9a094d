# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds numbers in the plates of their data, which broadcasting picks from."""

from __future__ import annotations

import numpy as np

from numpyro_svae.program.run.grids import Grid, is_of_numbers
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.probing import Prober

__all__ = ["find_grids"]


def find_grids(prober: Prober) -> dict[str, Grid]:
    """The sites of numbers whose plates are all those of what depends on them, in
    programs in which some have several dimensions.

    One in the last plate alone is read as it is, but beside those of other plates.

    :param prober: runs the program, with concrete arguments.
    :return: their shapes and plates, by site.
    """
    found = {s.name: s for s in prober.sites.values() if _is_within(prober, s)}
    grids = {name for name, site in found.items() if len(site.batch_shape) > 1}
    needs, grown = prober.needs, True
    while grown:
        used = [names for names in needs.values() if names & grids]
        beside = {name for name in found if any(name in names for names in used)}
        grown, grids = not beside <= grids, grids | beside
    return {
        name: Grid(site.batch_shape, site.frames)
        for name, site in found.items()
        if name in grids
    }


def _is_within(prober: Prober, site: Site) -> bool:
    """Whether a site is one of whole plates, which all of its dependents are in."""
    if site.observed or not site.frames or not is_of_numbers(site.outer):
        return False
    if site.mask is not None or not np.all(np.equal(site.scale, 1.0)):
        return False
    needs, own = prober.needs, {frame.name for frame in site.frames}
    users = [prober.sites[name] for name, used in needs.items() if site.name in used]
    return bool(users) and all(own <= {f.name for f in user.frames} for user in users)
