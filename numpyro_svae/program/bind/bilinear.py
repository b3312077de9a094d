# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations whose location multiplies weights of several blocks, with their data.

Under independent weights u and v, a location m that is linear in each has

    Var m = g' Cov(u) g + h' Cov(v) h + tr(Cov(u) B Cov(v) B')

with g and h its derivatives at the means. What is expected of the density is a function
of the moments of each block, and linear in them given the others: its derivatives are
the messages to all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from math import log, pi
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.priors.bilinear import Bilinear, entries_of
from numpyro_svae.program.priors.gaussian_prior import GaussianPrior
from numpyro_svae.program.run.positions import clean, extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.probing import Prober

__all__ = ["BoundBilinear", "bind_bilinear", "locations"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "offset", "slopes", "products", "members", "scale", "mask"],
    meta_fields=["kind", "batch_rank"],
)
@dataclass(frozen=True)
class BoundBilinear:
    """What a program gives of such a density; see :class:`Bilinear`.

    :param kind: what it is made of.
    :param batch_rank: how many dimensions the batch of the site has.
    :param value: of the site, ``(*positions)``.
    :param offset: k, ``(*positions)``.
    :param slopes: A of each block, ``(*positions, N)``.
    :param products: B of each pair, ``(*positions, N, M)`` or ``(N, M)``.
    :param members: of each block, ``(*positions)``; None without a batch.
    :param scale: s, or the variance where that is known.
    :param mask: which positions have data; None for all.
    """

    kind: Bilinear
    batch_rank: int
    value: Array
    offset: Array
    slopes: tuple[Array, ...]
    products: tuple[Array, ...]
    members: tuple[Array | None, ...]
    scale: Array
    mask: Array | None

    def location(self, entries: Sequence[Any]) -> Array:
        """The location at entries ``(*positions, N)`` of each block."""
        total = self.offset
        for own, slope in zip(entries, self.slopes):
            total = total + jnp.sum(slope * own, -1)
        for (i, j), matrix in zip(self.kind.pairs, self.products):
            own = jnp.squeeze(matrix @ entries[j][..., None], -1)
            total = total + jnp.sum(entries[i] * own, -1)
        return total

    def picked(self, index: int, leaf: Any) -> Any:
        """Members of a block where the positions are."""
        members = self.members[index]
        return leaf if members is None else leaf[members]

    def expected(self, moments: dict[str, Any]) -> Array:
        """The expected log density, of the batch shape of the site.

        :param moments: of all blocks.
        """
        means, spreads = zip(*map(self._moments, self.kind.weights, repeat(moments)))
        slopes, variance = list(self.slopes), jnp.zeros(())
        for (i, j), matrix in zip(self.kind.pairs, self.products):
            back = jnp.swapaxes(matrix, -1, -2)
            slopes[i] = slopes[i] + jnp.squeeze(matrix @ means[j][..., None], -1)
            slopes[j] = slopes[j] + jnp.squeeze(back @ means[i][..., None], -1)
            both = (spreads[i] @ matrix) * (matrix @ spreads[j])
            variance = variance + jnp.sum(both, (-2, -1))
        for slope, spread in zip(slopes, spreads):
            own = jnp.squeeze(spread @ slope[..., None], -1)
            variance = variance + jnp.sum(slope * own, -1)
        square = (self.value - self.location(means)) ** 2 + variance
        size, log_size = self._variance(moments)
        found = -0.5 * (log_size + log(2 * pi) + square / size)
        found = jnp.broadcast_to(found, self.value.shape)
        found = found if self.mask is None else jnp.where(self.mask, found, 0.0)
        return jnp.sum(found, tuple(range(self.batch_rank, found.ndim)))

    def _moments(self, block: GaussianPrior, moments: dict[str, Any]) -> tuple:
        """Means and covariances of the members of a block at the positions."""
        size, found = entries_of(block), moments[block.name]
        index = self.kind.weights.index(block)
        mean = found.mean.reshape(*block.batch_shape, size)
        spread = found.spread.reshape(*block.batch_shape, size, size)
        return self.picked(index, mean), self.picked(index, spread)

    def _variance(self, moments: dict[str, Any]) -> tuple[Array, Array]:
        """The inverse of the expected inverse of the variance, and its expected log."""
        if self.kind.noise is None:
            return self.scale, jnp.log(self.scale)
        noise = self.kind.noise.noise(moments, None)
        size = noise.covariance[..., 0, 0]
        return size * self.scale, noise.log_det + jnp.log(self.scale)


def locations(prober: Prober, site: Site, kind: Bilinear) -> Any:
    """The location ``(*positions)`` as a function of the values of the weights."""
    known, positions = prober.plain_values(), extent_of(site).positions

    def location(values: dict[str, Any]) -> Array:
        loc = prober.read({**known, **values})[site.name]["loc"]
        return jnp.broadcast_to(loc, (*positions, 1))[..., 0]

    return location


def bind_bilinear(prober: Prober, site: Site, kind: Bilinear) -> BoundBilinear:
    """Read what is known of the density of a site."""
    location, zeros = locations(prober, site, kind), kind.zeros()
    slopes = [kind.slope(location, i, zeros) for i in range(len(kind.weights))]
    products = []
    for pair, alike in zip(kind.pairs, kind.alike):
        if alike:
            found = kind.product(location, pair, lambda x: x.reshape(len(x), -1)[:, 0])
        else:
            found = jnp.moveaxis(kind.product(location, pair), (0, 1), (-2, -1))
        products.append(found)
    members = tuple(
        kind.members(location, index) if block.batch_shape else None
        for index, block in enumerate(kind.weights)
    )
    unit = {} if kind.noise is None else kind.noise.unit_noise()
    values = {**prober.plain_values(), **unit}
    scale = prober.read(values)[site.name]["covariance"][..., 0, 0]
    extent = extent_of(site)
    value = clean(extent, site.value)[..., 0]
    return BoundBilinear(
        kind,
        len(site.batch_shape),
        value,
        location(kind.values(zeros)),
        tuple(jnp.moveaxis(slope, 0, -1) for slope in slopes),
        tuple(products),
        members,
        scale,
        extent.mask,
    )
