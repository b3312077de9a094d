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
    numbers = [s for s in prober.sites.values() if _is_of_whole_plates(s)]
    if all(len(site.batch_shape) < 2 for site in numbers):
        return {}  # what depends on them is not asked for
    found = {site.name: site for site in numbers if _is_within(prober, site)}
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


def _is_of_whole_plates(site: Site) -> bool:
    """Whether a site is of latent numbers that count once, in plates."""
    if site.observed or not site.frames or not is_of_numbers(site.outer):
        return False
    return site.mask is None and bool(np.all(np.equal(site.scale, 1.0)))


def _is_within(prober: Prober, site: Site) -> bool:
    """Whether a site is in no plates but those of all that depends on it."""
    needs, own = prober.needs, {frame.name for frame in site.frames}
    users = [prober.sites[name] for name, used in needs.items() if site.name in used]
    return bool(users) and all(own <= {f.name for f in user.frames} for user in users)
