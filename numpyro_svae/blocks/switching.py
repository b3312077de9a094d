# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian regressions that a discrete state picks: averages over states, and scores.

With expected log densities ``E log N(v; M_k u, C_k) = log N(v; M_k u, C_k)
- u' E_k u / 2 + ...`` of the states k, the average over the probabilities of the states
is again of this form, with ``C^-1 = sum_k q_k C_k^-1``, ``M = C sum_k q_k C_k^-1 M_k``
and ``E = sum_k q_k (E_k + (M_k - M)' C_k^-1 (M_k - M))``, a sum of positive terms.

Layout: entries first, lanes last; states, where there are any, before the lanes.
"""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks.elimination import (
    cholesky,
    solve_lower,
    solve_lower_transposed,
)
from numpyro_svae.blocks.linalg import (
    eye,
    log_diagonal,
    matmul,
    matmul_transposed,
    matvec,
    outer,
    symmetrize,
    transpose,
)

__all__ = ["Averaged", "States", "average", "score_transitions"]


class States(NamedTuple):
    """Regressions by state, with trailing axes ``(K, lanes)``; lanes may be one.

    :param weight: ``M_k``, of shape ``(D, M, K, lanes)``.
    :param whitener: ``W_k`` with ``W_k' W_k = C_k^-1``, ``(D, D, K, lanes)``.
    :param excess: ``E_k``, of shape ``(M, M, K, lanes)``.
    """

    weight: Array
    whitener: Array
    excess: Array


class Averaged(NamedTuple):
    """The average: ``M (D, M, lanes)``, ``C``, ``E``, and ``log|C|`` of the lanes."""

    weight: Array
    covariance: Array
    excess: Array
    log_det: Array


def _mix(values: Array, probs: Array) -> Array:
    """``sum_k q_k x_k`` for ``(I, J, K, lanes)`` and ``(K, lanes)``."""
    if values.shape[-1] == 1:  # one matrix product for all lanes
        return jnp.tensordot(values[..., 0], probs, 1)
    return jnp.sum(values * probs, -2)


def average(states: States, probs: Array) -> Averaged:
    """Average regressions over the probabilities ``(K, lanes)`` of the states."""
    precisions = matmul_transposed(states.whitener, states.whitener)
    precision = symmetrize(_mix(precisions, probs))
    tril = cholesky(precision)
    cross = _mix(matmul(precisions, states.weight), probs)
    weight = solve_lower_transposed(tril, solve_lower(tril, cross))
    half = solve_lower(tril, jnp.broadcast_to(eye(tril), tril.shape))
    covariance = matmul_transposed(half, half)
    spread = matmul(states.whitener, states.weight - weight[:, :, None])
    spread = jnp.sum(matmul_transposed(spread, spread) * probs, -2)
    excess = _mix(states.excess, probs) + spread
    return Averaged(weight, covariance, excess, -2 * log_diagonal(tril))


def score_transitions(
    states: States,
    later: tuple[Array, Array],
    backwards: tuple[Array, Array, Array],
    inputs: Array,
    basis: np.ndarray | None = None,
) -> Array:
    """``-E[(x' - M_k u)' C_k^-1 (x' - M_k u) + u' E_k u] / 2``, by state.

    Here ``u = [x; inputs]``. The pair is ``x' ~ N(m, P)`` and ``x = A x' + b + e`` with
    ``e ~ N(0, Q)``, as a smoothed chain runs, so that every term is a square and none
    cancels.

    :param states: the regressions.
    :param later: ``m (D, lanes)`` and ``P (D, D, lanes)``.
    :param backwards: ``A (D, D, lanes)``, ``b (D, lanes)`` and ``Q (D, D, lanes)``.
    :param inputs: of shape ``(M - D, lanes)``.
    :param basis: E, ``(D, d)``, if the regressions are of ``E' x'``; None if not.
    :return: scores of shape ``(K, lanes)``.
    """
    (mean, cov), (matrix, bias, noise) = later, backwards
    size = mean.shape[0]
    earlier = matvec(matrix, mean) + bias
    root, noise_root = cholesky(cov), cholesky(noise)
    inputs = jnp.broadcast_to(inputs, (inputs.shape[0], mean.shape[1]))
    u = jnp.concatenate([earlier, inputs])
    u_roots = jnp.concatenate([matmul(matrix, root), noise_root], 1)
    x_roots = jnp.concatenate([root, jnp.zeros_like(noise_root)], 1)

    def by_state(x: Array) -> Array:
        return x[..., None, :]

    if basis is not None:
        mean, x_roots = (jnp.tensordot(basis.T, x, 1) for x in (mean, x_roots))
    residual = by_state(mean) - matvec(states.weight, by_state(u))
    roots = by_state(x_roots) - matmul(states.weight[:, :size], by_state(u_roots))
    whitened = matvec(states.whitener, residual)
    spread = matmul(states.whitener, roots)
    second = outer(u, u)
    covariance = matmul(u_roots, transpose(u_roots))
    second = second.at[:size, :size].add(covariance)
    excess = jnp.sum(states.excess * by_state(second), (0, 1))
    return -0.5 * (jnp.sum(whitened**2, 0) + jnp.sum(spread**2, (0, 1)) + excess)
