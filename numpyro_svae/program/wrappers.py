# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Takes distributions out of ``expand``, ``to_event`` and ``mask``.

Gaussian vectors of NumPyro's other classes are the ``MultivariateNormal`` of their
covariance, and numbers are vectors of dimension one.
"""

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
        A Gaussian vector comes as a ``MultivariateNormal``.
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
            return _as_plain(fn), mask, extra


def _as_plain(fn: Any) -> Any:
    """A Gaussian vector as a ``MultivariateNormal``; anything else as it is."""
    parameter: dict[str, Any] = {}
    if isinstance(fn, dist.LowRankMultivariateNormal):
        parameter = {"scale_tril": fn.scale_tril}
    elif isinstance(fn, dist.CirculantNormal):
        parameter = {"covariance_matrix": fn.covariance_matrix}
    elif isinstance(fn, dist.CAR):
        parameter = {"precision_matrix": fn.precision_matrix}
    elif isinstance(fn, dist.GaussianRandomWalk):
        steps = jnp.tril(jnp.ones(2 * fn.event_shape))
        parameter = {"scale_tril": jnp.asarray(fn.scale)[..., None, None] * steps}
    if not parameter:
        return fn
    loc = getattr(fn, "loc", jnp.zeros(fn.event_shape))
    return dist.MultivariateNormal(loc, **parameter, validate_args=False)


def as_vectors(fn: dist.Distribution, value: Array) -> tuple[Any, Array]:
    """Numbers that are Gaussian, as vectors of one dimension.

    :param fn: their distribution; what :func:`peel` finds in it is a ``Normal``.
    :param value: the numbers.
    :return: the same with a last axis of size one.
    """
    base, mask, extra = peel(fn)
    shape = fn.batch_shape + fn.event_shape
    loc, scale = (jnp.asarray(x)[..., None] for x in (base.loc, base.scale))
    vector = dist.Normal(loc, scale).expand((*shape, 1)).to_event(1)
    vector = vector if mask is None else vector.mask(jnp.broadcast_to(mask, shape))
    return vector.to_event(extra), jnp.asarray(value)[..., None]


def shape_of(fn: dist.Distribution) -> dist.Distribution:
    """A distribution in the same wrappers that has nothing but its shape."""
    if isinstance(fn, dist.ExpandedDistribution):
        return shape_of(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, dist.MaskedDistribution):
        return shape_of(fn.base_dist).mask(fn._mask)
    if isinstance(fn, dist.Independent):
        return shape_of(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.Normal):  # whose entries are those of vectors
        return dist.Normal(0.0, 1.0).expand(fn.batch_shape)
    shapes = fn.batch_shape, fn.event_shape
    return dist.ImproperUniform(dist.constraints.real, *shapes)
