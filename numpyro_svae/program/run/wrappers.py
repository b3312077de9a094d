# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Takes distributions out of ``expand``, ``to_event`` and ``mask``.

Gaussian vectors of NumPyro's other classes are the ``MultivariateNormal`` of their
covariance, numbers are vectors of dimension one, and a latent ``Bernoulli`` is a
``Categorical`` of two states, as a ``DiscreteUniform`` is of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.util import not_jax_tracer

from numpyro_svae.program.run.classes import entries_by_class, spelling_of

__all__ = [
    "Layer",
    "as_states",
    "as_vectors",
    "at_positions",
    "inside",
    "is_number",
    "peel",
    "shape_of",
    "unmasked",
]


class Layer(NamedTuple):
    """What is around a distribution: one of ``expand``, ``mask`` and ``to_event``.

    :param inner: the distribution inside.
    :param shape: the batch shape that ``expand`` gives; None for the others.
    :param mask: of ``mask``; None for the others.
    :param added: how many dimensions ``to_event`` makes events.
    """

    inner: Any
    shape: tuple[int, ...] | None = None
    mask: Array | None = None
    added: int = 0

    @classmethod
    def of(cls, fn: Any) -> Layer | None:
        """The outermost layer of a distribution; None if there is none."""
        if isinstance(fn, dist.ExpandedDistribution):
            return cls(fn.base_dist, fn.batch_shape)
        if isinstance(fn, dist.MaskedDistribution):
            # the value of a constant is known under a trace too
            array: Any = np.asarray if isinstance(fn._mask, bool) else jnp.asarray
            return cls(fn.base_dist, mask=array(fn._mask))
        if isinstance(fn, dist.Independent):
            return cls(fn.base_dist, added=fn.reinterpreted_batch_ndims)
        return None

    def around(self, inner: Any) -> Any:
        """Another distribution in the same layer."""
        if self.shape is not None:
            return inner.expand(self.shape)
        if self.mask is not None:
            return inner.mask(self.mask)
        return inner.to_event(self.added)


def peel(fn: Any) -> tuple[Any, Array | None, int]:
    """The underlying distribution, its mask, and how many dimensions became events.

    :param fn: a distribution.
    :return: the mask has the batch of the underlying distribution; None without any.
        A Gaussian vector comes as a ``MultivariateNormal``.
    """
    mask, extra = None, 0
    while True:
        layer = Layer.of(fn)
        if layer is None:
            return _as_plain(fn), mask, extra
        if layer.mask is not None:
            mask = layer.mask if mask is None else mask & layer.mask
        elif mask is not None:
            mask = mask[(...,) + (None,) * layer.added]
        fn, extra = layer.inner, extra + layer.added


def inside(fn: Any) -> Any:
    """A distribution without what it is wrapped in, of the class that is written."""
    while (layer := Layer.of(fn)) is not None:
        fn = layer.inner
    return fn


def unmasked(fn: Any) -> Any:
    """A distribution without masks."""
    layer = Layer.of(fn)
    if layer is None:
        return fn
    inner = unmasked(layer.inner)
    return inner if layer.mask is not None else layer.around(inner)


def at_positions(fn: Any, extra: int) -> Any:
    """The distribution with some leading event dimensions as batch dimensions.

    :param fn: the distribution at a site.
    :param extra: how many event dimensions are to become positions.
    :return: None if these dimensions are not independent under the distribution.
    """
    layer = Layer.of(fn)
    if extra == 0 or layer is None:
        return fn if extra == 0 else None
    if layer.added:
        kept = layer.added - extra
        if kept < 0:
            return at_positions(layer.inner, -kept)
        return layer.inner.to_event(kept) if kept else layer.inner
    inner = at_positions(layer.inner, extra)
    if inner is None:
        return None
    if layer.mask is not None:
        return inner.mask(layer.mask[(...,) + (None,) * extra])
    return inner.expand(fn.batch_shape + tuple(fn.event_shape[:extra]))


def _walk(fn: dist.GaussianRandomWalk) -> dict[str, Array]:
    steps = jnp.tril(jnp.ones(2 * fn.event_shape))
    return {"scale_tril": jnp.asarray(fn.scale)[..., None, None] * steps}


_GAUSSIAN_VECTORS: tuple[tuple[type, Callable[[Any], dict[str, Any]]], ...] = (
    (dist.LowRankMultivariateNormal, lambda fn: {"scale_tril": fn.scale_tril}),
    (dist.CirculantNormal, lambda fn: {"covariance_matrix": fn.covariance_matrix}),
    (dist.CAR, lambda fn: {"precision_matrix": fn.precision_matrix}),
    (dist.GaussianRandomWalk, _walk),
)


def _as_plain(fn: Any) -> Any:
    """A Gaussian vector as a ``MultivariateNormal``; anything else as it is."""
    read = next(entries_by_class(_GAUSSIAN_VECTORS, fn), None)
    if read is None:
        return fn
    loc = getattr(fn, "loc", jnp.zeros(fn.event_shape))
    return dist.MultivariateNormal(loc, **read(fn), validate_args=False)


def is_number(fn: Any) -> bool:
    """Whether a distribution is of Gaussian numbers, that are no entries of events."""
    return spelling_of(peel(fn)[0]) == "numbers" and not fn.event_shape


def as_vectors(fn: dist.Distribution, value: Array) -> tuple[Any, Array]:
    """Numbers that are Gaussian, as vectors of one dimension.

    :param fn: their distribution; what :func:`peel` finds in it is a ``Normal``.
    :param value: the numbers.
    :return: the same with a last axis of size one; as they are in a call in which they
        have another distribution.
    """
    base, mask, extra = peel(fn)
    if spelling_of(base) != "numbers":
        return fn, value
    shape = fn.batch_shape + fn.event_shape
    loc, scale = (jnp.asarray(x)[..., None] for x in (base.loc, base.scale))
    vector = dist.Normal(loc, scale).expand((*shape, 1)).to_event(1)
    vector = vector if mask is None else vector.mask(jnp.broadcast_to(mask, shape))
    return vector.to_event(extra), jnp.asarray(value)[..., None]


def as_states(fn: Any) -> Any:
    """A Bernoulli distribution as the Categorical of its two values, and a uniform one
    from zero as that of as many states, in the same wrappers; any other as it is."""
    layer = Layer.of(fn)
    if layer is not None:
        inner = as_states(layer.inner)
        return fn if inner is layer.inner else layer.around(inner)
    if isinstance(fn, dist.BernoulliProbs):
        probs = jnp.stack([1.0 - fn.probs, fn.probs], -1)
        return dist.CategoricalProbs(probs, validate_args=False)
    if isinstance(fn, dist.BernoulliLogits):
        logits = jnp.stack([jnp.zeros_like(fn.logits), fn.logits], -1)
        return dist.CategoricalLogits(logits, validate_args=False)
    if isinstance(fn, dist.DiscreteUniform) and not_jax_tracer(fn.low + fn.high):
        low, high = np.unique(fn.low), np.unique(fn.high)
        if low.tolist() == [0] and high.size == 1:
            count = int(high[0]) + 1
            same = jnp.full((*fn.batch_shape, count), 1 / count)
            return dist.CategoricalProbs(same, validate_args=False)
    return fn


def shape_of(fn: dist.Distribution) -> dist.Distribution:
    """A distribution in the same wrappers that has nothing but its shape."""
    layer = Layer.of(fn)
    if layer is not None:
        return layer.around(shape_of(layer.inner))
    if spelling_of(fn) == "numbers":  # whose entries are those of vectors
        return dist.Normal(0.0, 1.0).expand(fn.batch_shape)
    shapes = fn.batch_shape, fn.event_shape
    return dist.ImproperUniform(dist.constraints.real, *shapes)
