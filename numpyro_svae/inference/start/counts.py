# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the posteriors of probabilities and rates start."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import DirichletNatural, NaturalParameters
from numpyro_svae.program.bind.entries import Picked
from numpyro_svae.program.run.positions import Extent

__all__ = ["add_statistics", "spread_counts", "spread_rows"]


def add_statistics(
    prior: Any, table: Callable[[Any], Array], members: Array, extent: Extent
) -> NaturalParameters:
    """The prior updated by the statistics of the members of each component.

    :param table: the log density of each component at each position,
        ``(*positions, K)``, linear in the moments of the block.
    :param members: memberships ``(*positions, K)``.
    :param extent: where they are.
    """
    share = weighted(members, extent)

    def total(moments: Any) -> Array:
        return jnp.sum(share * table(moments))

    return _moved(prior, total)


def spread_rows(
    prior: DirichletNatural,
    picked: Picked,
    extent: Extent,
    used: Array | float,
    before: int = 0,
) -> DirichletNatural:
    """Counts of all data, divided as the prior expects among what is used.

    :param picked: where the rows of the data are.
    :param extent: where the data are.
    :param used: which categories are, ``(K,)``.
    :param before: the number of states that a row may follow, in a chain; zero for
        rows by themselves.
    """
    share = picked.shares(prior.concentration)
    open_ = jnp.where(jnp.any(share * used > 0, -1, keepdims=True), share * used, share)
    sums = jnp.sum(open_, -1, keepdims=True)
    share = open_ / jnp.where(sums > 0, sums, 1.0) / max(before, 1)
    weight = jnp.ones(()) if extent.mask is None else 1.0 * extent.mask
    weight = jnp.broadcast_to(weight * extent.scale, extent.positions)
    weight = jnp.expand_dims(weight, (-2, -1) if before else -1)

    def total(moments: Array) -> Array:
        return jnp.sum(weight * share * picked.take(moments))

    return _moved(prior, total)


def _moved(prior: Any, total: Callable[[Any], Array]) -> Any:
    """The prior, with the statistics of which a total is the expectation."""
    moments = prior.moments()
    rise = jax.grad(total)(jax.tree.map(jnp.zeros_like, moments))
    return prior + prior.pull_back(rise, moments)


def spread_counts(
    prior: DirichletNatural, extent: Extent, used: Array | float
) -> DirichletNatural:
    """Counts of all data, divided as the prior expects among what is used.

    :param used: which categories are, ``(K,)``.
    """
    number: Array | int = math.prod(extent.positions)
    if extent.mask is not None:
        number = jnp.sum(jnp.broadcast_to(extent.mask, extent.positions))
    count = number * extent.scale / math.prod(prior.batch_shape)
    open_ = prior.concentration * used
    some = jnp.any(open_ > 0, -1, keepdims=True)
    open_ = jnp.where(some, open_, prior.concentration)
    share = open_ / jnp.sum(open_, -1, keepdims=True)
    return DirichletNatural(prior.concentration + count * share)


def weighted(members: Array, extent: Extent) -> Array:
    """Memberships ``(*positions, K)`` times the weight of each position."""
    members = jnp.broadcast_to(members, (*extent.positions, members.shape[-1]))
    weight = jnp.ones(()) if extent.mask is None else 1.0 * extent.mask
    return members * (weight * extent.scale)[..., None]
