# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

r"""The message of a factor that is not conjugate: the gradient of its expectation.

With :math:`E(m, P) = E_{N(m, P)} \log f(x)` the message to x is the potential

.. math:: J = -2\, \partial E / \partial P, \qquad h = \partial E / \partial m + J m,

which is the natural parameter of a Gaussian factor with the same gradients (Khan and
Lin, *Conjugate-computation variational inference*, AISTATS 2017). Of a factor that is
conjugate it is the closed form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.inference.local.lane_solves import unwhiten, whiten
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.wrappers import peel

__all__ = [
    "VectorMoments",
    "as_message",
    "mean_and_covariance",
    "message_of",
    "moments_of",
    "narrowing",
    "off_its_mean",
    "remains",
]

_OFFSET = 0.5  # in standard deviations


class VectorMoments(NamedTuple):
    """Means ``(*positions, D)``, and Cholesky factors ``(*positions, D, D)`` of
    covariances."""

    mean: Array
    tril: Array


def moments_of(marginal: Any, positions: tuple[int, ...]) -> VectorMoments:
    """Moments of a Gaussian vector or chain at its positions.

    :param marginal: the distribution.
    :param positions: shape of the positions.
    """
    vector = peel(marginal)[0]
    if spelling_of(vector) == "vector":
        return VectorMoments(*_spread(positions, vector.loc, vector.scale_tril))
    tril = jnp.linalg.cholesky(vector.covariance)
    return VectorMoments(*_spread(positions, vector.mean, tril))


def mean_and_covariance(
    marginal: Any, positions: tuple[int, ...]
) -> tuple[Array, Array]:
    """Of a Gaussian vector or chain at its positions.

    :param marginal: the distribution.
    :param positions: shape of the positions.
    """
    vector = peel(marginal)[0]
    if spelling_of(vector) == "vector":
        return _spread(positions, vector.loc, vector.covariance_matrix)
    return _spread(positions, vector.mean, vector.covariance)


def _spread(
    positions: tuple[int, ...], mean: Array, matrix: Array
) -> tuple[Array, Array]:
    """A mean and a matrix of each position."""
    mean = jnp.broadcast_to(mean, (*positions, mean.shape[-1]))
    return mean, jnp.broadcast_to(matrix, (*positions, *matrix.shape[-2:]))


def as_message(
    potential: GaussianPotential, positions: tuple[int, ...], mask: Array | None
) -> GaussianPotential:
    """What a recognition function says of a vector, in the form of a message.

    :param potential: what it says.
    :param positions: shape of the positions of the vector.
    :param mask: the positions that count; None for all of them.
    """
    shape = (*positions, potential.dim)
    info = jnp.broadcast_to(potential.info_vector, shape)
    precision = jnp.broadcast_to(potential.full_precision(), (*shape, potential.dim))
    found = GaussianPotential(info, precision)
    return found if mask is None else found.mask(mask)


def message_of(moments: VectorMoments, gradient: VectorMoments) -> GaussianPotential:
    """The message of a factor to a Gaussian site.

    In the coordinates of ``x = m + L e`` the curvature is ``-L' (dE/dL)``, of which
    the lower triangle counts: E depends on L as a Cholesky factor. Directions in which
    it is negative are left out there, where rounding does not depend on units.

    :param moments: of the site.
    :param gradient: of the expectation, with respect to these.
    """
    mean, tril = moments
    product = jnp.swapaxes(tril, -1, -2) @ gradient.tril
    lower = jnp.tril(product)
    curvature = -(lower + jnp.swapaxes(lower, -1, -2))
    curvature = curvature * (1 - 0.5 * jnp.eye(mean.shape[-1], dtype=mean.dtype))
    usable = jnp.isfinite(curvature).all((-2, -1), keepdims=True)
    values, vectors = jnp.linalg.eigh(jnp.where(usable, curvature, 0.0))
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
    root = unwhiten(tril, root)
    precision = root @ jnp.swapaxes(root, -1, -2)
    info = gradient.mean + (precision @ mean[..., None])[..., 0]
    nothing = jnp.where(usable[..., 0], info, jnp.nan)
    return GaussianPotential(nothing, jnp.where(usable, precision, jnp.nan))


def remains(
    moments: VectorMoments, current: GaussianPotential, goal: GaussianPotential
) -> Array:
    """How far a message is from its goal, at each position, relative to that.

    It is measured in units of the posterior standard deviation, and so is the gradient
    of the bound with respect to a mean and a covariance of it.
    """
    mean, tril = moments
    turned, precision = jnp.swapaxes(tril, -1, -2), goal.full_precision()
    change = precision - current.full_precision()
    pull = goal.info_vector - current.info_vector - (change @ mean[..., None])[..., 0]

    def size(info: Array, precision: Array) -> tuple[Array, Array]:
        first = jnp.abs((turned @ info[..., None])[..., 0])
        return jnp.max(first, -1), jnp.max(jnp.abs(turned @ precision @ tril), (-2, -1))

    far, known = size(pull, change), size(goal.info_vector, precision)
    return jnp.maximum(far[0] / (1.0 + known[0]), far[1] / (1.0 + known[1]))


def narrowing(moments: VectorMoments) -> GaussianPotential:
    """What leaves a mean where it is, and halves a covariance.

    :param moments: of an independent vector; of steps of a path it holds nearly.
    """
    mean, tril = moments
    identity = jnp.broadcast_to(jnp.eye(mean.shape[-1], dtype=mean.dtype), tril.shape)
    root = whiten(tril, identity)
    root = jnp.where(jnp.isfinite(root), root, 0.0)
    precision = jnp.swapaxes(root, -1, -2) @ root
    return GaussianPotential((precision @ mean[..., None])[..., 0], precision)


def off_its_mean(
    moments: VectorMoments, message: GaussianPotential, entries: tuple[int, ...]
) -> GaussianPotential:
    """A message whose mean is other than that of a vector, by half a deviation or so.

    :param moments: of the vector.
    :param message: one with the precision of the vector, as :func:`narrowing` has it.
    :param entries: those of the mean that are moved.
    """
    mean, tril = moments
    drawn = random.normal(random.PRNGKey(0), mean.shape, mean.dtype)
    offset = jnp.zeros_like(mean).at[..., entries].set(drawn[..., entries])
    deviation = jnp.linalg.norm(tril, axis=-1)
    precision = message.full_precision()
    info = (precision @ (_OFFSET * deviation * offset)[..., None])[..., 0]
    return replace(message, info_vector=message.info_vector + info)
