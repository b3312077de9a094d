# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Takes distributions out of ``expand``, ``to_event`` and ``mask``, and numbers."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

__all__ = ["as_vectors", "peel", "shape_of"]


def peel(fn: Any) -> tuple[Any, Array | None, int]:
    """The underlying distribution, its mask, and how many dimensions became events.

    :param fn: a distribution.
    :return: the mask has the batch of the underlying distribution; None without any.
    """
    mask, extra = None, 0
    while True:
        if isinstance(fn, dist.ExpandedDistribution):
            fn = fn.base_dist
        elif isinstance(fn, dist.MaskedDistribution):
            own = jnp.asarray(fn._mask)
            mask = own if mask is None else mask & own
            fn = fn.base_dist
        elif isinstance(fn, dist.Independent):
            added = fn.reinterpreted_batch_ndims
            mask = None if mask is None else mask[(...,) + (None,) * added]
            extra += added
            fn = fn.base_dist
        else:
            return fn, mask, extra


def as_vectors(fn: dist.Distribution, value: Array) -> tuple[Any, Array]:
    """Numbers that are Gaussian, as vectors of one dimension."""
    base, mask, _ = peel(fn)
    if not isinstance(base, dist.Normal) or fn.event_shape:
        return fn, value
    loc, scale = (jnp.asarray(x)[..., None] for x in (base.loc, base.scale))
    vector = dist.Normal(loc, scale).expand((*fn.batch_shape, 1)).to_event(1)
    vector = vector if mask is None else vector.mask(mask)
    return vector, jnp.asarray(value)[..., None]


def shape_of(fn: dist.Distribution) -> dist.Distribution:
    """A distribution in the same wrappers that has nothing but its shape."""
    if isinstance(fn, dist.ExpandedDistribution):
        return shape_of(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, dist.MaskedDistribution):
        return shape_of(fn.base_dist).mask(fn._mask)
    if isinstance(fn, dist.Independent):
        return shape_of(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    shapes = fn.batch_shape, fn.event_shape
    return dist.ImproperUniform(dist.constraints.real, *shapes)
