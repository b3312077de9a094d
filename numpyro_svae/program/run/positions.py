# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Extents of factors and sites: sums, masks and weights over their positions."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.program.run.sites import Site

__all__ = [
    "Extent",
    "broadcasts_to",
    "clean",
    "extent_of",
    "is_at",
    "per_entry",
    "per_path",
    "per_scale",
    "pull_to",
    "read_at",
]


class Extent(NamedTuple):
    """Where the members of a factor are.

    :param batch_shape: shape of the plates.
    :param positions: shape of the plates, then of ``extra`` event dimensions.
    :param mask: which positions count; None for all of them.
    :param scale: factor of the log probability.
    """

    batch_shape: tuple[int, ...]
    positions: tuple[int, ...]
    mask: Array | None
    scale: Array | float

    @property
    def extra(self) -> int:
        """How many trailing position dimensions are event dimensions."""
        return len(self.positions) - len(self.batch_shape)


def extent_of(site: Site, role: str = "value", event_dim: int = 0) -> Extent:
    """The extent of a site, or of a part of the density of a chain.

    :param site: the site.
    :param role: the part.
    :param event_dim: how many trailing event dimensions are no positions.
    """
    positions, mask = site.positions, site.mask
    if event_dim:
        positions = positions[:-event_dim]
        trailing = tuple(range(-event_dim, 0))
        mask = None if mask is None else jnp.any(mask, trailing)
    if role == "initial":
        positions = positions[:-1]
        mask = None if mask is None else mask[..., 0]
    elif role == "transition":
        positions = (*positions[:-1], positions[-1] - 1)
        mask = mask if mask is None or mask.shape[-1] == 1 else mask[..., 1:]
    return Extent(site.batch_shape, positions, mask, site.scale)


def read_at(
    value: Array, local: Extent, extent: Extent, event_dim: int, offset: int = 0
) -> Array:
    """Values at the positions of a local site, as a factor sees them.

    Event dimensions that the factor adds share a value. Of those that both have, the
    factor may see a window; a factor with fewer sees one position.

    :param value: of shape ``(*local.positions, *event)``.
    :param local: the extent of the local site.
    :param extent: that of the factor.
    :param event_dim: number of event dimensions of the values.
    :param offset: where the window starts.
    :return: values that broadcast to ``(*extent.positions, *event)``.
    """
    last = value.ndim - event_dim - 1
    if local.extra > extent.extra:
        return lax.index_in_dim(value, offset, last, keepdims=False)
    missing = extent.extra - local.extra
    if missing:
        return jnp.expand_dims(value, tuple(range(last + 1, last + 1 + missing)))
    if local.extra and value.shape[last] > extent.positions[-1] > 0:
        stop = offset + extent.positions[-1]
        return lax.slice_in_dim(value, offset, stop, axis=last)
    return value


def is_at(local: Extent, extent: Extent) -> bool:
    """Whether a local site has a value at each position of a factor."""
    value = jax.ShapeDtypeStruct((*local.positions, 1), jnp.float32)
    read = partial(read_at, local=local, extent=extent, event_dim=1)
    found, goal = jax.eval_shape(read, value).shape[:-1], extent.positions
    return broadcasts_to(found, goal)


def broadcasts_to(shape: tuple[int, ...], goal: tuple[int, ...]) -> bool:
    """Whether arrays of a shape broadcast to another one."""
    aligned = zip(shape[::-1], goal[::-1])
    return len(shape) <= len(goal) and all(n in (1, m) for n, m in aligned)


def pull_to(
    message: Array, local: Extent, extent: Extent, event_dim: int, offset: int = 0
) -> Array:
    """Sum messages of a factor to the positions of a local site.

    The transpose of :func:`read_at`, with the mask of the factor and the relative scale
    of the two.

    :param message: broadcasts to ``(*extent.positions, *event)``.
    :return: of shape ``(*local.positions, *event)``.
    """
    event = message.shape[message.ndim - event_dim :]
    message = jnp.broadcast_to(message, extent.positions + event)
    if extent.mask is not None:
        mask = jnp.reshape(extent.mask, jnp.shape(extent.mask) + (1,) * event_dim)
        message = jnp.where(mask, message, 0.0)
    scaled = jnp.ndim(extent.scale) or jnp.ndim(local.scale)
    if scaled:  # one for each entry of the batch
        message = message * _at_positions(extent, event_dim)

    def read(value: Array) -> Array:
        value = read_at(value, local, extent, event_dim, offset)
        return jnp.broadcast_to(value, message.shape)

    like = jax.ShapeDtypeStruct(local.positions + event, message.dtype)
    (pulled,) = jax.linear_transpose(read, like)(message)
    if scaled:
        return pulled / _at_positions(local, event_dim)
    return pulled * (extent.scale / local.scale)


def _at_positions(extent: Extent, event_dim: int) -> Array:
    """The scale of each entry of the batch, at its positions."""
    scale = jnp.broadcast_to(extent.scale, extent.batch_shape)
    return jnp.expand_dims(scale, tuple(range(-extent.extra - event_dim, 0)))


def per_scale(extent: Extent, value: Array) -> Array:
    """Values ``(*positions, *event)`` divided by the scale of their extent."""
    if not jnp.ndim(extent.scale):
        return value / extent.scale
    return value / _at_positions(extent, value.ndim - len(extent.positions))


def clean(extent: Extent, value: Any, event_dim: int = 1) -> Array:
    """Values with zeros where the mask of their extent says that they are missing."""
    if extent.mask is None:
        return value
    mask = jnp.reshape(extent.mask, jnp.shape(extent.mask) + (1,) * event_dim)
    return jnp.where(mask, value, 0.0)


def counted(value: Array, extent: Extent) -> Array:
    """Values at positions, zero where the mask leaves them out."""
    value = jnp.broadcast_to(value, extent.positions)
    return value if extent.mask is None else jnp.where(extent.mask, value, 0.0)


def per_entry(value: Array, extent: Extent) -> Array:
    """Sum values at positions to one for each entry of the batch."""
    value = counted(value, extent)
    return jnp.sum(value, tuple(range(value.ndim - extent.extra, value.ndim)))


def per_path(value: Array, extent: Extent) -> Array:
    """Values of whole paths, zero for those without a position that counts."""
    value = jnp.broadcast_to(value, extent.batch_shape)
    return value if extent.mask is None else jnp.where(extent.mask.any(-1), value, 0.0)
