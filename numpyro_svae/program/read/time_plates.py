# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations of a chain in a plate over its steps.

Time is an event dimension of a chain. An observed site may have it in its batch, as a
plate, and is then shown to the reader with time in its event too, where
``to_event(1)`` would have put it.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.run.sites import Site, is_path
from numpyro_svae.program.run.steps import Steps, TimePlate
from numpyro_svae.program.structure.numbers import drawn_values, is_scale
from numpyro_svae.program.structure.probing import Prober

__all__ = ["find_time_plates"]


def find_time_plates(prober: Prober) -> dict[str, TimePlate]:
    """The observed sites with a plate over the steps of a chain, and that plate.

    :param prober: runs the program, with concrete arguments.
    """
    sites = prober.sites
    chains = [s for s in sites.values() if not s.observed and is_path(s.fn)]
    found = [s for s in sites.values() if s.observed and s.frames and not s.extra]
    if not chains or not found:
        return {}
    plates = {}
    for site in found:
        parents = [sites[name] for name in prober.needs[site.name]]
        plate = _time_plate(prober, site, parents)
        if plate is not None and Steps.of(site.outer).kind and not jnp.ndim(site.scale):
            plates[site.name] = plate
    return plates


def _time_plate(prober: Prober, site: Site, parents: list[Site]) -> TimePlate | None:
    """A plate that goes with the steps of a chain, if there is one.

    What is latent at each step on its own has the plate too, and is no chain's. Where
    the batch of the chain is that of the site without the steps, its dimensions are
    the same once the plate is gone.
    """
    beside = [p for p in parents if not is_scale(p)]
    own = {frame.name for p in beside for frame in p.frames}
    for chain in (p for p in parents if is_path(p.fn)):
        for frame in site.frames:
            open_ = frame.name not in own and frame.size > 1
            if open_ and _follows(prober, site, chain, frame.dim):
                batch = list(site.batch_shape)
                del batch[frame.dim]
                shifts = frame.dim > -len(site.batch_shape)
                left = shifts and tuple(batch) != chain.batch_shape
                return TimePlate(frame.dim, left)
    return None


def _follows(prober: Prober, site: Site, chain: Site, dim: int) -> bool:
    """Whether even steps of a chain move other members of a plate than odd ones."""
    values = drawn_values(prober.sites)
    start, rank = values[chain.name], len(chain.positions) - 1
    even = np.arange(chain.positions[-1]) % 2 == 0
    even = even.reshape((-1,) + (1,) * (start.ndim - rank - 1))

    def density(value: Any) -> np.ndarray:
        run = prober.program.sites({**values, chain.name: value})[site.name]
        found = jnp.broadcast_to(run.outer.log_prob(run.value), site.batch_shape)
        return np.moveaxis(np.asarray(found), dim, -1).reshape(-1, found.shape[dim])

    before = density(start)
    first, second = (
        (density(np.where(where, start + np.ones((), start.dtype), start)) != before)
        for where in (even, ~even)
    )
    first, second = first.any(0), second.any(0)
    return bool(first.any() and second.any() and not (first & second).any())
