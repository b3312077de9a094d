# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussians in other coordinates: what affine transforms make of a Normal site."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.transforms import AffineTransform, LowerCholeskyAffine

from numpyro_svae.program.run.classes import spelling_of, tril_of
from numpyro_svae.program.run.wrappers import Layer, as_states, peel

__all__ = ["Moved", "as_gaussian", "as_latent"]


class Moved(dist.TransformedDistribution):
    """A distribution whose entries are put elsewhere, with its moments."""

    def _moved(self, value: Array) -> Array:
        for transform in self.transforms:  # those of what it moves are among them
            value = transform(value)
        return value

    @property
    def mean(self) -> Array:
        return self._moved(self.base_dist.mean)

    @property
    def variance(self) -> Array:
        return self._moved(self.base_dist.variance)


def as_latent(fn: Any) -> Any:
    """The distribution of a latent site as it is read, in the same wrappers.

    A Bernoulli is the Categorical of its two values, and a Gaussian under affine
    transforms is a Gaussian; any other one is as it is.
    """
    return as_states(as_gaussian(fn))


def as_gaussian(fn: Any) -> Any:
    """A Gaussian under affine transforms as a Gaussian, in the same wrappers; any other
    distribution as it is."""
    layer = Layer.of(fn)
    if layer is not None:
        inner = as_gaussian(layer.inner)
        return fn if inner is layer.inner else layer.around(inner)
    moved = _moved(fn) if type(fn) is dist.TransformedDistribution else None
    return fn if moved is None else moved


def _moved(fn: Any) -> Any:
    """A Gaussian under affine transforms; None if it is none."""
    base, mask, _ = peel(fn.base_dist)
    vector = spelling_of(base) == "vector"
    if mask is not None or not (vector or spelling_of(base) == "numbers"):
        return None
    shape = fn.base_dist.batch_shape + fn.base_dist.event_shape
    loc, root = jnp.broadcast_to(base.loc, shape), jnp.asarray(tril_of(base))
    for transform in fn.transforms:
        if isinstance(transform, LowerCholeskyAffine):
            tril = transform.scale_tril
            root = tril @ root if vector else _columns(root, shape[-1], tril)
            loc = transform.loc + jnp.squeeze(tril @ loc[..., None], -1)
            vector = True
        elif type(transform) is AffineTransform:
            scale = jnp.asarray(transform.scale)
            root = _rows(root, loc.shape[-1], scale) if vector else root * abs(scale)
            loc = transform.loc + scale * loc
        else:
            return None
    shape, events = fn.batch_shape + fn.event_shape, len(fn.event_shape)
    loc = jnp.broadcast_to(loc, shape)
    if vector:
        found = dist.MultivariateNormal(loc, scale_tril=root, validate_args=False)
        return found.to_event(events - 1)
    return dist.Normal(loc, root, validate_args=False).to_event(events)


def _columns(scale: Array, size: int, tril: Array) -> Array:
    """The factor of numbers with standard deviations, multiplied by a factor."""
    return tril * jnp.broadcast_to(scale, (*scale.shape[:-1], size))[..., None, :]


def _rows(root: Array, size: int, scale: Array) -> Array:
    """A factor of which rows are multiplied, with a diagonal that is positive."""
    scale = jnp.broadcast_to(scale, (*scale.shape[:-1], size))
    return scale[..., :, None] * root * jnp.sign(scale)[..., None, :]
