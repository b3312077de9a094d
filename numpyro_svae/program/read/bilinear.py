# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds observations whose location multiplies weights of several blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.bind.bilinear import BoundBilinear, bind_bilinear, locations
from numpyro_svae.program.priors.bilinear import Bilinear, entries_of
from numpyro_svae.program.priors.joined_noises import JoinedNoises
from numpyro_svae.program.read.wiring import Wiring
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.sites import Site, response_dim
from numpyro_svae.program.structure.factors import Factor, Source
from numpyro_svae.program.structure.probing import Prober

__all__ = ["find_bilinear"]

_LARGEST = 2**14
"""How many pairs of entries two blocks may have."""


def find_bilinear(wiring: Wiring, site: Site) -> Factor | None:
    """The factor of a Gaussian observation that is linear in each of its blocks.

    :return: None if it is none, or has local sites, vectors, or parts without data.
    """
    prober, used = wiring.prober, wiring.used(site.name)
    if not site.observed or site.entries is not None or response_dim(site) != 1:
        return None
    if not used <= {*wiring.block_of}:
        return None
    kind = _kind(wiring, site)
    if kind is None:
        return None
    kind = _with_pairs(prober, site, kind)
    if not kind.pairs or not _agrees(prober, site, kind):
        return None
    prober.joins[kind.name] = kind
    return Factor(site.name, Source(kind.name), form="bilinear")


def _kind(wiring: Wiring, site: Site) -> Bilinear | None:
    """The blocks of an observation; None if they are not weights and one noise."""
    names = {wiring.block_of[n].name for n in wiring.used(site.name)}
    blocks: list[Any] = [p for n, p in wiring.prober.priors.items() if n in names]
    weights = tuple(block for block in blocks if block.part == "weight")
    noises = [block for block in blocks if block.part == "noise"]
    if len(weights) + len(noises) < len(blocks) or len(noises) > 1:
        return None
    noise = None
    if noises:
        if noises[0].components or not noises[0].covers(1):
            return None
        noise = JoinedNoises.of(noises[0], 1)
    return Bilinear(f"{site.name} value", weights, noise)


def _with_pairs(prober: Prober, site: Site, kind: Bilinear) -> Bilinear:
    """With the pairs of blocks that are multiplied for some arguments."""
    sizes = [entries_of(block) for block in kind.weights]
    every = list(combinations(range(len(sizes)), 2))
    if not every or any(sizes[i] * sizes[j] > _LARGEST for i, j in every):
        return kind

    def look(rows: Array) -> Array:
        flat = rows.reshape(len(rows), -1)
        return jnp.stack([jnp.any(flat != 0), jnp.all(flat == flat[:, :1])])

    def read(own: Prober) -> Array:
        def every_pair() -> Array:
            location = locations(own, site, kind)
            found = [kind.product(location, pair, look) for pair in every]
            return jnp.stack([jnp.stack([x[:, 0].any(), x[:, 1].all()]) for x in found])

        return jax.jit(every_pair)()

    runs = np.array([jax.device_get(read(prober)), prober.read_elsewhere(read)])
    moved: np.ndarray = np.any(runs[..., 0], 0)
    alike: np.ndarray = np.all(runs[..., 1], 0)
    pairs = tuple(pair for pair, is_one in zip(every, moved) if is_one)
    return replace(kind, pairs=pairs, alike=tuple(alike[moved].tolist()))


def _agrees(prober: Prober, site: Site, kind: Bilinear) -> bool:
    """Whether a program has its location and its variance at random values."""
    bound: BoundBilinear = jax.jit(lambda: bind_bilinear(prober, site, kind))()
    for values in prober.probes():
        found = prober.read(values)[site.name]
        entries = []
        for index, block in enumerate(kind.weights):
            weight = np.asarray(block.weight(values[block.name]))
            flat = weight.reshape(*block.batch_shape, entries_of(block))
            entries.append(bound.picked(index, flat))
        loc = bound.location(entries)
        variance: Any = 1.0
        if kind.noise is not None:
            variance = np.asarray(kind.noise.covariance_at(values))[..., 0, 0]
        if not same(np.asarray(found["loc"])[..., 0], np.asarray(loc)):
            return False
        expected = np.asarray(bound.scale) * variance
        if not same(np.asarray(found["covariance"])[..., 0, 0], expected):
            return False
    return True
