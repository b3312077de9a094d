# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sums, masks and weights over the positions of sites."""

from __future__ import annotations

from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.sites import Site

__all__ = ["clean", "counted", "lift", "per_entry", "reduce_to", "sum_to", "weigh"]


def lift(value: Array, site: Site, local: Site, event_dim: int) -> Array:
    """Give values at a local's positions the position dimensions that a site adds."""
    missing = max(site.extra - local.extra, 0)
    where = value.ndim - event_dim
    return jnp.expand_dims(value, tuple(range(where, where + missing)))


def reduce_to(value: Array, site: Site, local: Site, event_dim: int) -> Array:
    """Sum values at a site's positions over those that share a position of a local."""
    shape = value.shape[value.ndim - event_dim :]
    value = jnp.broadcast_to(value, site.positions + shape)
    extra = max(site.extra - local.extra, 0)
    where = value.ndim - event_dim
    value = jnp.sum(value, tuple(range(where - extra, where)))
    return sum_to(value, local.positions, event_dim)


def sum_to(value: Array, positions: tuple[int, ...], event_dim: int) -> Array:
    """Sum values over the position dimensions that a goal does not have."""
    goal = positions + value.shape[value.ndim - event_dim :]
    value = jnp.sum(value, tuple(range(value.ndim - len(goal))))
    ones = tuple(i for i, size in enumerate(goal) if size == 1 and value.shape[i] != 1)
    return jnp.sum(value, ones, keepdims=True)


def weigh(value: Array, site: Site, local: Site, event_dim: int) -> Array:
    """Weight a message by the mask of its site and by their relative scale."""
    if site.mask is not None:
        shape = jnp.shape(site.mask)
        mask = jnp.reshape(site.mask, shape + (1,) * event_dim)
        value = jnp.where(mask, value, 0.0)
    return value * (site.scale / local.scale)


def clean(site: Site, value: Array, event_dim: int = 1) -> Array:
    """The value of a site with zeros where the mask says that it is missing."""
    if site.mask is None:
        return value
    mask = jnp.reshape(site.mask, jnp.shape(site.mask) + (1,) * event_dim)
    return jnp.where(mask, value, 0.0)


def counted(value: Array, site: Site) -> Array:
    """Values at positions, zero where the mask of the site leaves them out."""
    value = jnp.broadcast_to(value, site.positions)
    return value if site.mask is None else jnp.where(site.mask, value, 0.0)


def per_entry(value: Array, site: Site) -> Array:
    """Sum values at a site's positions to one for each entry of its batch."""
    value = counted(value, site)
    return jnp.sum(value, tuple(range(value.ndim - site.extra, value.ndim)))
