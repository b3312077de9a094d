# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds sites whose event has components, of which each position of data has one, and
mixtures of components.

``HalfNormal(1).expand([K]).to_event(1)`` is K scales that labels pick from, as in
``s[z]``, or those of the K entries of one vector. Where no position of the data has two
of them, they are shown to the reader as a batch, as if they had a plate of their own.
So are means that are picked beside such scales.
"""

from __future__ import annotations

import numpy as np
import numpyro.distributions as dist

from numpyro_svae.program.run.mixtures import component_name, mixture_of
from numpyro_svae.program.run.scans import is_scanned
from numpyro_svae.program.run.sites import (
    Program,
    Site,
    is_gaussian,
    is_path,
    sample_sites,
)
from numpyro_svae.program.run.wrappers import at_positions
from numpyro_svae.program.structure.numbers import is_scale
from numpyro_svae.program.structure.probing import Prober
from numpyro_svae.program.structure.together import Members, users_of

__all__ = ["find_components", "find_mixtures"]

_MATRICES = dist.InverseWishart, dist.LKJ, dist.LKJCholesky


def find_components(prober: Prober) -> dict[str, int]:
    """How many event dimensions of means, scales and covariances are those of
    components.

    :param prober: runs the program, with concrete arguments.
    :return: by site, those alone that have any, with a minus: they become a batch.
    """
    sites = [s for s in prober.sites.values() if not s.observed]
    noises = [s for s in sites if is_scale(s) or isinstance(s.fn, _MATRICES)]
    found = {site.name: _of_noise(prober, site) for site in noises}
    sizes = {s.name: s.value.shape[0] for s in noises if found[s.name] or s.batch_shape}
    for site in sites if sizes else ():
        if is_gaussian(site.fn) and not is_path(site.fn):
            beside = _beside(prober, site, sizes)
            found[site.name] = _separate(prober, site, 1) if beside else 0
    return {name: -count for name, count in found.items() if count}


def _of_noise(prober: Prober, site: Site) -> int:
    """How many event dimensions of a scale or a covariance are of components."""
    if isinstance(site.fn, _MATRICES):
        return site.extra
    return _separate(prober, site, len(site.outer.event_shape))


def _beside(prober: Prober, site: Site, sizes: dict[str, int]) -> bool:
    """Whether data depend on a site and on a noise with as many components."""
    shape, needs = site.outer.event_shape, prober.needs.values()
    beside = {n for used in needs if site.name in used for n in used if n in sizes}
    return bool(shape) and any(sizes[name] == shape[0] for name in beside)


def _separate(prober: Prober, site: Site, most: int) -> int:
    """Along how many of its first event dimensions positions have one member each."""
    event = site.outer.event_shape
    if not event or site.batch_shape or not np.all(np.equal(site.scale, 1.0)):
        return 0
    found = users_of(prober, site)
    if not found or len(found) < sum(site.name in n for n in prober.needs.values()):
        return 0
    members = Members(prober, site, found)
    axes = (a for a in range(most) if event[a] == 1 or members.meet(a))
    count = next(axes, most)
    return count if at_positions(site.outer, count) is not None else 0


def find_mixtures(program: Program, messages: dict[str, dict]) -> frozenset[str]:
    """The mixtures that are data, and are read with their labels.

    They depend on something that is not Gaussian, and on no vector that a datum or a
    step has of its own. Of Gaussian sites alone the density is read as it is, which is
    closer.

    :param program: the program, with concrete arguments.
    :param messages: the trace of a run of it.
    """
    found = [
        name
        for name, message in messages.items()
        if message.get("is_observed")
        and not is_scanned(message)
        and mixture_of(message["fn"]) is not None
        and component_name(name) not in messages
    ]
    if not found:
        return frozenset()
    sites = sample_sites(messages)
    needs = Prober(program, sites, {}, {}).needs
    return frozenset(
        name
        for name in found
        if not all(is_gaussian(sites[n].fn) for n in needs[name])
        and not any(_is_beside(sites[n], sites[name]) for n in needs[name])
    )


def _is_beside(site: Site, other: Site) -> bool:
    """Whether a site is a path, or Gaussian in a plate of another one."""
    shared = bool({*site.frames} & {*other.frames})
    return is_path(site.fn) or (is_gaussian(site.fn) and shared)
