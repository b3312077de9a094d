# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognises where the parameters of a factor come from.

They are fixed, those of one global block, or those of the member of a batch that a
discrete site or data pick. Each possibility is an identity that is checked at random
values of the latent sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from jax import Array
import numpy as np

from numpyro_svae.program.run.positions import Extent, extent_of, read_at
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Source
from numpyro_svae.program.structure.probing import Found, Prober

__all__ = ["find_source", "picked", "sources_of"]

_MOST_OFFSETS = 8


def sources_of(
    prober: Prober,
    extent: Extent,
    prior: Any,
    selector: str | None,
    unpicked: bool = False,
) -> Iterator[Source]:
    """The ways in which a block and a discrete site may give parameters.

    :param prober: the program.
    :param extent: where the factor is.
    :param prior: the block or the join that the parameters depend on.
    :param selector: the discrete site that they depend on.
    :param unpicked: whether it may pick from something else than the block.
    """
    name = None if prior is None else prior.name
    batch = prior is not None and prior.components is not None
    if selector is None:
        yield Source(name, gathered=batch)
    elif batch or prior is None or unpicked:
        local = extent_of(prober.sites[selector])
        count = 1
        if local.extra == extent.extra > 0:
            count = local.positions[-1] - extent.positions[-1] + 1
        elif local.extra > extent.extra:
            count = local.positions[-1]
        for offset in range(min(count, _MOST_OFFSETS)):
            yield Source(name, selector, offset)
        for offset in range(min(count, _MOST_OFFSETS) if batch and unpicked else 0):
            yield Source(name, selector, offset, gathered=True)


def picked(
    prober: Prober, extent: Extent, source: Source, values: dict[str, Any]
) -> Array:
    """The states of a selector at the positions of a factor."""
    name = str(source.selector)
    local = extent_of(prober.sites[name])
    return read_at(values[name], local, extent, 0, source.offset)


def find_source(
    prober: Prober, site: Site, parameter: str, extent: Extent, options: tuple
) -> Source | None:
    """Where a parameter comes from that is a block, or the member that a site picks.

    :param prober: runs the program.
    :param site: the site.
    :param parameter: the name of its parameter.
    :param extent: where it is.
    :param options: the block, and the discrete site that picks from its batch or None.
    :return: None if the program does not agree with it at random values.
    """
    prior, selector = options

    def agrees(source: Source, values: dict[str, Any], found: Found) -> bool:
        expected = values[prior.name]
        if source.selector is not None:
            states = np.asarray(picked(prober, extent, source, values))
            if np.any(states >= len(expected)):
                return False  # more states than members
            expected = expected[states]
        return found.agrees(site.name, **{parameter: expected})

    for source in sources_of(prober, extent, prior, selector):
        if prober.holds(partial(agrees, source)):
            return source
    return None
