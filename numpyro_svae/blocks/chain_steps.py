# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One step of a Gaussian chain, its adjoint, and the types of all steps.

Layout: entries, time, lanes. Vectors are ``(D, T, N)`` and matrices ``(D, D, T, N)``,
without the axis of time inside a loop over it. Axes of time and lanes have full size or
one; those of size one are shared without copying, and their cotangents are summed.
"""

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.linalg import (
    matmul,
    matvec,
    outer,
    square,
    sum_to,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import each_step, first_steps
from numpyro_svae.blocks.terms import collect

__all__ = [
    "Dynamics",
    "Gaussian",
    "collect",
    "dynamics_cotangent",
    "no_steps",
    "predict",
    "start",
    "total",
    "zero_cotangent",
]


class Gaussian(NamedTuple):
    """Mean ``(D, ...)`` and covariance ``(D, D, ...)``."""

    mean: Array
    cov: Array


class Dynamics(NamedTuple):
    """Steps ``x_{t+1} ~ N(A_t x_t + b_t, Q_t)``; time axes of size ``T - 1`` or one."""

    matrix: Array
    bias: Array
    cov: Array


def no_steps(size: int, dtype) -> Dynamics:
    """Dynamics of a chain of one state."""
    zeros = jnp.zeros((size, size, 1, 1), dtype)
    return Dynamics(zeros, zeros[0], zeros)


def predict(state: Gaussian, step: Dynamics) -> Gaussian:
    """``N(A m + b, A P A' + Q)``."""
    return Gaussian(
        matvec(step.matrix, state.mean) + step.bias,
        symmetrize(square(transpose(step.matrix), state.cov) + step.cov),
    )


def total(like: Array, *terms: Array) -> Array:
    """Cotangent for ``like``: every term, summed over what ``like`` shares."""
    first, *others = (sum_to(term, like.shape) for term in terms)
    return sum(others, first)


def _matrix_cotangent(matrix: Array, state: Gaussian, g: Gaussian) -> tuple:
    through_cov = 2 * matmul(g.cov, matmul(matrix, state.cov))
    return collect(outer(g.mean, state.mean), through_cov)


def dynamics_cotangent(states: Gaussian, steps: Dynamics, g: Gaussian) -> Dynamics:
    """Cotangents of the ``T - 1`` steps, where ``g`` are those of what they predict."""
    length = max(states.mean.shape[-2] - 1, 1)
    states, g = first_steps((states, g), length)
    matrix = each_step(_matrix_cotangent, length, steps.matrix, states, g)
    return Dynamics(
        total(steps.matrix, *matrix),
        total(steps.bias, g.mean),
        total(steps.cov, g.cov),
    )


def _lanes(*arrays: Array) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(x.shape[-1:] for x in arrays))


def start(initial: Gaussian, matrices: tuple, vectors: tuple = ()) -> Gaussian:
    """Initial moments with the lanes of the matrices, and means with all lanes."""
    cov_lanes = _lanes(initial.cov, *matrices)
    lanes = _lanes(*initial, *matrices, *vectors)
    return Gaussian(
        jnp.broadcast_to(initial.mean, initial.mean.shape[:-1] + lanes),
        jnp.broadcast_to(initial.cov, initial.cov.shape[:-1] + cov_lanes),
    )


def zero_cotangent(g: Gaussian) -> Gaussian:
    """The zero cotangent that enters a backward loop."""
    return Gaussian(jnp.zeros_like(g.mean[..., 0, :]), jnp.zeros_like(g.cov[..., 0, :]))
