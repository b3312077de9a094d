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
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.gradient_messages import (
    VectorMoments,
    moments_of,
)
from numpyro_svae.inference.local.lane_solves import cholesky_of, unwhiten, whiten
from numpyro_svae.inference.local.learnt_transitions import Transition
from numpyro_svae.potentials import GaussianPotential

__all__ = [
    "LinearSteps",
    "Pairs",
    "Points",
    "bound_points",
    "gap_of",
    "goal_of",
    "linear_steps",
    "points_of",
    "steps_of",
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
        spread = share * (1 - share) * (_transpose(whitened) @ whitened)
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
    (mean, tril), (spots, weights) = moments, points
    found = jax.vmap(lambda e: means(mean + _apply(tril, e)))(spots)
    value = jnp.tensordot(weights, found, 1)
    far = found - value
    slope = jnp.einsum("s,s...i,sj->...ij", weights, far, spots)
    matrix = _transpose(unwhiten(tril, _transpose(slope)))
    bias = value - _apply(matrix, mean)
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


def gap_of(
    pairs: Pairs,
    transition: Transition,
    matrices: Array,
    cov: Array,
    points: Points,
) -> Array:
    """``E[log N(x'; f(x), Q)] - E[log N(x'; A x + b, Q)]`` of each step.

    It is made of residuals of the linear step, of what f is beside it, and of how
    uncertain f is.

    :param pairs: moments of the pairs.
    :param transition: f.
    :param matrices: ``[A, b]``.
    :param cov: Q, of shape ``(..., T - 1, D, D)``.
    :param points: for standard normal vectors, ``(S, D)`` or ``(S, ..., T - 1, D)``,
        and their weights.
    """
    (mean, tril), root = pairs.before, cholesky_of(cov)
    matrix, bias = matrices[..., :-1], matrices[..., -1]
    rest = pairs.after - _apply(matrix, mean) - bias
    along = _transpose(whiten(tril, _transpose(pairs.cross)))
    slope = along - matrix @ tril

    def at(point: Array) -> Array:
        x = mean + _apply(tril, point)
        value, cost = transition.means_and_costs(x)
        curved = whiten(root, (value - _apply(matrix, x) - bias)[..., None])
        residual = whiten(root, (rest + _apply(slope, point))[..., None])
        return jnp.sum(curved * (residual - 0.5 * curved), (-2, -1)) - cost

    values = jax.vmap(at)(points[0])
    return jnp.tensordot(points[1], values, 1)


def goal_of(
    pairs: Pairs,
    transition: Transition,
    cov: Array,
    rule: Rule,
    beside: Array,
    exists: Array,
) -> LinearSteps:
    """Where the messages of the steps to their pairs are, given moments of these.

    :param pairs: the moments.
    :param transition: f.
    :param cov: Q, of shape ``(..., T - 1, D, D)``.
    :param rule: the points.
    :param beside: precisions of the other messages to the states before the steps.
        What is left over may be negative as far as these make up for it.
    :param exists: which steps there are, ``(..., T - 1)`` or less.
    """
    points = points_of(rule, pairs.before)
    matrices, _ = linear_steps(transition.means, pairs.before, points)

    def total(before: VectorMoments) -> Array:
        moved = pairs._replace(before=before)
        gaps = gap_of(moved, transition, matrices, cov, points)
        return jnp.sum(jnp.where(exists, gaps, 0.0))

    leftover = _signed(pairs.before, jax.grad(total)(pairs.before), beside)
    return steps_of(matrices, leftover, pairs.before)


def steps_of(
    matrices: Array, leftover: tuple[Array, Array], before: VectorMoments
) -> LinearSteps:
    """With nothing at the last states."""
    rank = before.mean.ndim - 2

    def padded(x: Array) -> Array:
        return jnp.pad(x, [(0, int(axis == rank)) for axis in range(x.ndim)])

    potential = GaussianPotential(*map(padded, leftover))
    return LinearSteps(padded(matrices), potential, VectorMoments(*map(padded, before)))


def _signed(
    moments: VectorMoments, gradient: VectorMoments, beside: Array
) -> tuple[Array, Array]:
    """A message whose precision is not negative together with another one."""
    mean, tril = moments
    lower = jnp.tril(_transpose(tril) @ gradient.tril)
    curvature = -(lower + _transpose(lower))
    curvature = curvature * (1 - 0.5 * jnp.eye(mean.shape[-1], dtype=mean.dtype))
    whole = curvature + _transpose(tril) @ beside @ tril
    usable = jnp.isfinite(whole).all((-2, -1), keepdims=True)
    values, vectors = jnp.linalg.eigh(jnp.where(usable, whole, 0.0))
    lacking = vectors * jnp.sqrt(jnp.maximum(-values, 0.0))[..., None, :]
    curvature = curvature + lacking @ _transpose(lacking)
    half = unwhiten(tril, curvature)
    precision = unwhiten(tril, _transpose(half))
    precision = 0.5 * (precision + _transpose(precision))
    info = gradient.mean + _apply(precision, mean)
    nothing = jnp.where(usable[..., 0], info, jnp.nan)
    return nothing, jnp.where(usable, precision, jnp.nan)


def _transpose(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _apply(matrix: Array, x: Array) -> Array:
    return jnp.squeeze(matrix @ x[..., None], -1)
