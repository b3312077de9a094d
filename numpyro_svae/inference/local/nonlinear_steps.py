# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

r"""The message of a step that is not linear to the pair of states that it joins.

Under :math:`q(x, x')` the log density :math:`\log N(x'; f(x), Q)` has an expectation
whose gradient in the moments of the pair is that of a linear step,

.. math:: \log N(x'; A x + b, Q), \qquad A = E[df/dx], \quad b = E[f] - A\,E[x],

and of a potential on x, which is left over of the curvature of f. Expectations of f and
of its squares are taken with points for x alone: given x, the next state is Gaussian
with a mean that is linear in x, and is integrated out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.families.matrices import matvec
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.gradient_messages import (
    VectorMoments,
    moments_of,
)
from numpyro_svae.inference.local.lane_solves import cholesky_of, unwhiten, whiten
from numpyro_svae.potentials import GaussianPotential

__all__ = [
    "LinearSteps",
    "Pairs",
    "Points",
    "bound_points",
    "linear_steps",
    "points_of",
    "steps_of",
    "steps_through",
]

Means = Callable[[Array], Array]
Points = tuple[Array, Array]


class Pairs(NamedTuple):
    """Moments of the pairs of neighbours of a path.

    :param before: of the first one, ``(..., T - 1, D)``.
    :param after: means of the second one, ``(..., T - 1, D)``.
    :param cross: ``Cov(x', x)``, ``(..., T - 1, D, D)``.
    """

    before: VectorMoments
    after: Array
    cross: Array

    @classmethod
    def of(cls, path: LinearGaussianChain, positions: tuple[int, ...]) -> Pairs:
        """Those of a chain.

        :param positions: shape of its states, ``(..., T)``.
        """
        mean, tril = moments_of(path, positions)
        cross = path.neighbor_covariance
        shape = (*positions[:-1], positions[-1] - 1, *cross.shape[-2:])
        before = VectorMoments(mean[..., :-1, :], tril[..., :-1, :, :])
        return cls(before, mean[..., 1:, :], jnp.broadcast_to(cross, shape))


class LinearSteps(NamedTuple):
    """Linear steps with what is left over, at the states that they start from.

    That of the last state is of no step.

    :param matrix: ``[A, b]``, of shape ``(..., T, D, D + 1)``.
    :param leftover: potential of batch shape ``(..., T)``.
    :param moments: of the states at which they were found.
    """

    matrix: Array
    leftover: GaussianPotential
    moments: VectorMoments

    @property
    def matrices(self) -> Array:
        """Those of the steps, ``(..., T - 1, D, D + 1)``."""
        return self.matrix[..., :-1, :, :]

    @property
    def before(self) -> VectorMoments:
        """Moments of the states before the steps, ``(..., T - 1)``."""
        mean, tril = self.moments
        return VectorMoments(mean[..., :-1, :], tril[..., :-1, :, :])

    def with_leftover(self, more: tuple[Array, Array]) -> LinearSteps:
        """With more that is left over, information vectors and precisions."""
        padded = steps_of(self.matrices, more, self.before)
        return self._replace(leftover=self.leftover + padded.leftover)

    def towards(self, goal: LinearSteps, rate: Array, cov: Array) -> LinearSteps:
        """Natural parameters that are a part of the way to others.

        :param goal: the others.
        :param rate: which part, of shape ``(..., T)``.
        :param cov: of the noise of the steps, ``(..., T, D, D)``.
        """
        share = rate[..., None, None]
        change = goal.matrix - self.matrix
        own, further = self.leftover, goal.leftover
        # The square of a mean is less than the mean of the squares.
        whitened = whiten(cholesky_of(cov), change)
        spread = share * (1 - share) * (whitened.mT @ whitened)
        info = own.info_vector + share[..., 0] * (further.info_vector - own.info_vector)
        precision = own.precision + share * (further.precision - own.precision)
        leftover = GaussianPotential(
            info - spread[..., :-1, -1], precision + spread[..., :-1, :-1]
        )
        return LinearSteps(self.matrix + share * change, leftover, goal.moments)


def linear_steps(
    means: Means, moments: VectorMoments, points: Points
) -> tuple[Array, Array]:
    """The closest linear steps ``[A, b]``, and the covariance of the means after them.

    :param means: maps states ``(..., D)`` to the means of the next ones.
    :param moments: of the states.
    :param points: for standard normal vectors, and their weights.
    """
    mean, tril = moments
    found = jax.vmap(lambda e: means(mean + matvec(tril, e)))(points[0])
    return steps_through(found, moments, points)


def steps_through(
    found: Array, moments: VectorMoments, points: Points
) -> tuple[Array, Array]:
    """:func:`linear_steps`, given the means after points, ``(S, ..., D)``."""
    (mean, tril), (spots, weights) = moments, points
    value = jnp.tensordot(weights, found, 1)
    far = found - value
    slope = jnp.einsum("s,s...i,sj->...ij", weights, far, spots)
    matrix = unwhiten(tril, slope.mT).mT
    bias = value - matvec(matrix, mean)
    spread = jnp.einsum("s,s...i,s...j->...ij", weights, far, far)
    return jnp.concatenate([matrix, bias[..., None]], -1), spread


def points_of(rule: Rule, moments: VectorMoments) -> Points:
    """The points of a rule, and their weights."""
    mean = moments.mean
    points, weights = rule.points(mean.shape[-1])
    return jnp.asarray(points, mean.dtype), jnp.asarray(weights, mean.dtype)


def bound_points(rule: Rule, moments: VectorMoments, key: Array) -> Points:
    """Points that make expectations unbiased: those of products, or a pair of draws.

    The draws are of each position by itself, and the second one is minus the first.
    """
    mean = moments.mean
    if rule.is_product(mean.shape[-1]):
        return points_of(rule, moments)
    noise = random.normal(key, mean.shape, mean.dtype)
    return jnp.stack([noise, -noise]), jnp.full(2, 0.5, mean.dtype)


def steps_of(
    matrices: Array, leftover: tuple[Array, Array], before: VectorMoments
) -> LinearSteps:
    """With nothing at the last states."""
    rank = before.mean.ndim - 2

    def padded(x: Array) -> Array:
        return jnp.pad(x, [(0, int(axis == rank)) for axis in range(x.ndim)])

    potential = GaussianPotential(*map(padded, leftover))
    return LinearSteps(padded(matrices), potential, VectorMoments(*map(padded, before)))
