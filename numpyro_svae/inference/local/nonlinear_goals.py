# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the messages of steps that are not linear go, and what they add to a bound.

A transition is evaluated once at the points of a posterior: for its closest linear
steps, for what it adds to the steps that are in its place now, and, with its
derivative, for what is left over of the closest ones.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.families.matrices import matvec, symmetric
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.gradient_messages import VectorMoments
from numpyro_svae.inference.local.lane_solves import cholesky_of, unwhiten, whiten
from numpyro_svae.inference.local.learnt_transitions import Transition
from numpyro_svae.inference.local.nonlinear_steps import (
    LinearSteps,
    Pairs,
    Points,
    points_of,
    steps_of,
    steps_through,
)

__all__ = ["gap_of", "goal_of"]


class _Seen(NamedTuple):
    """A transition at points.

    :param means: after them, ``(S, ..., T - 1, D)``.
    :param costs: of how uncertain they are, ``(S, ..., T - 1)``.
    """

    means: Array
    costs: Array

    @classmethod
    def at(
        cls, transition: Transition, moments: VectorMoments, points: Points
    ) -> _Seen:
        """At the points of a rule."""
        mean, tril = moments

        def at(point: Array) -> tuple[Array, Array]:
            return transition.means_and_costs(mean + matvec(tril, point))

        return cls(*jax.vmap(at)(points[0]))


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
    seen = _Seen.at(transition, pairs.before, points)
    return _gap(pairs, seen, matrices, cholesky_of(cov), points)


def _gap(
    pairs: Pairs, seen: _Seen, matrices: Array, root: Array, points: Points
) -> Array:
    mean, tril = pairs.before
    matrix, bias = matrices[..., :-1], matrices[..., -1]
    rest = pairs.after - matvec(matrix, mean) - bias
    along = whiten(tril, pairs.cross.mT).mT
    slope = along - matrix @ tril

    def at(point: Array, value: Array, cost: Array) -> Array:
        x = mean + matvec(tril, point)
        curved = whiten(root, (value - matvec(matrix, x) - bias)[..., None])
        residual = whiten(root, (rest + matvec(slope, point))[..., None])
        return jnp.sum(curved * (residual - 0.5 * curved), (-2, -1)) - cost

    values = jax.vmap(at)(points[0], *seen)
    return jnp.tensordot(points[1], values, 1)


def goal_of(
    pairs: Pairs,
    transition: Transition,
    matrices: Array,
    cov: Array,
    rule: Rule,
    beside: Array,
    exists: Array,
) -> tuple[LinearSteps, Array]:
    """Where the messages of the steps to their pairs are, given moments of these.

    :param pairs: the moments.
    :param transition: f.
    :param matrices: ``[A, b]`` of the linear steps that are in its place now.
    :param cov: Q, of shape ``(..., T - 1, D, D)``.
    :param rule: the points.
    :param beside: precisions of the other messages to the states before the steps.
        What is left over may be negative as far as these make up for it.
    :param exists: which steps there are, ``(..., T - 1)`` or less.
    :return: and :func:`gap_of` of the steps that are in its place now.
    """
    points, root = points_of(rule, pairs.before), cholesky_of(cov)

    def total(before: VectorMoments) -> tuple[Array, tuple[Array, Array]]:
        moved = pairs._replace(before=before)
        seen = _Seen.at(transition, before, points)
        closest, _ = lax.stop_gradient(steps_through(seen.means, before, points))
        gaps = _gap(moved, seen, closest, root, points)
        gap = _gap(*lax.stop_gradient((moved, seen)), matrices, root, points)
        return jnp.sum(jnp.where(exists, gaps, 0.0)), (closest, gap)

    gradient, (closest, gap) = jax.grad(total, has_aux=True)(pairs.before)
    leftover = _signed(pairs.before, gradient, beside)
    return steps_of(closest, leftover, pairs.before), gap


def _signed(
    moments: VectorMoments, gradient: VectorMoments, beside: Array
) -> tuple[Array, Array]:
    """A message whose precision is not negative together with another one."""
    mean, tril = moments
    lower = jnp.tril(tril.mT @ gradient.tril)
    curvature = -(lower + lower.mT)
    curvature = curvature * (1 - 0.5 * jnp.eye(mean.shape[-1], dtype=mean.dtype))
    whole = curvature + tril.mT @ beside @ tril
    usable = jnp.isfinite(whole).all((-2, -1), keepdims=True)
    values, vectors = jnp.linalg.eigh(jnp.where(usable, whole, 0.0))
    lacking = vectors * jnp.sqrt(jnp.maximum(-values, 0.0))[..., None, :]
    curvature = curvature + lacking @ lacking.mT
    half = unwhiten(tril, curvature)
    precision = symmetric(unwhiten(tril, half.mT))
    info = gradient.mean + matvec(precision, mean)
    nothing = jnp.where(usable[..., 0], info, jnp.nan)
    return nothing, jnp.where(usable, precision, jnp.nan)
