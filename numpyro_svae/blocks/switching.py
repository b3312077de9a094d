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

from jax import Array, custom_vjp
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks.elimination import cholesky, solve_lower
from numpyro_svae.blocks.linalg import (
    eye,
    matmul,
    matmul_transposed,
    matvec,
    outer,
    square,
    sum_to,
    symmetrize,
    transpose,
)
from numpyro_svae.derivatives import define_vjp

__all__ = ["Averaged", "States", "average", "score_transitions"]


class States(NamedTuple):
    """Regressions by state, with trailing axes ``(K, lanes)``, or ``(K, 1)`` for all.

    :param weight: ``M_k``, of shape ``(D, M, K, lanes)``.
    :param whitener: ``W_k`` with ``W_k' W_k = C_k^-1``, ``(D, D, K, lanes)``.
    :param excess: ``E_k``, of shape ``(M, M, K, lanes)``.
    """

    weight: Array
    whitener: Array
    excess: Array


class Averaged(NamedTuple):
    """The average: ``M (D, M, lanes)``, ``C`` and ``E``."""

    weight: Array
    covariance: Array
    excess: Array


def _mix(values: Array, probs: Array) -> Array:
    """``sum_k q_k x_k`` for ``(I, J, K, lanes)`` and ``(K, lanes)``."""
    if values.shape[-1] == 1:  # one matrix product for all lanes
        return jnp.tensordot(values[..., 0], probs, 1)
    return jnp.sum(values * probs, -2)


def _shares(values: Array, probs: Array, lanes: int) -> Array:
    """``q_k x_k``, summed over the lanes if states have them in common."""
    shares = values * probs
    return sum_to(shares, (*shares.shape[:-1], lanes))


def _by_state(x: Array) -> Array:
    """With an axis for the states."""
    return x[..., None, :]


@custom_vjp
def average(states: States, probs: Array) -> Averaged:
    """Average regressions over the probabilities ``(K, lanes)`` of the states.

    No elimination is differentiated. With ``P = C^-1`` and ``R_k = M_k - M``, of which
    ``sum_k q_k C_k^-1 R_k = 0``,

    - ``dC = -C dP C``,
    - ``dM = C sum_k (d(q_k C_k^-1) R_k + q_k C_k^-1 dM_k)``,
    - ``dE = sum_k d(q_k (E_k + R_k' C_k^-1 R_k))``, in which M is constant.
    """
    precisions = matmul_transposed(states.whitener, states.whitener)
    tril = cholesky(symmetrize(_mix(precisions, probs)))
    cross = _mix(matmul(precisions, states.weight), probs)
    identity = jnp.broadcast_to(eye(tril), tril.shape)
    whitened = solve_lower(tril, jnp.concatenate([identity, cross], 1))
    size = len(tril)
    found = matmul_transposed(whitened[:, :size], whitened)
    covariance, weight = found[:, :size], found[:, size:]
    spread = matmul(states.whitener, states.weight - _by_state(weight))
    spread = jnp.sum(matmul_transposed(spread, spread) * probs, -2)
    return Averaged(weight, covariance, _mix(states.excess, probs) + spread)


def _average_forward(states: States, probs: Array) -> tuple[Averaged, tuple]:
    found = average(states, probs)
    return found, (states, probs, found.weight, found.covariance)


def _average_backward(residuals: tuple, cotangent: Averaged) -> tuple[States, Array]:
    (weights, whitener, excess), probs, weight, covariance = residuals
    to_excess = _by_state(cotangent.excess)
    precisions = matmul_transposed(whitener, whitener)
    residual = weights - _by_state(weight)  # R_k
    to_precision = -_by_state(square(covariance, symmetrize(cotangent.covariance)))
    to_weight = _by_state(matmul(covariance, cotangent.weight))
    by_excess = matmul(residual, symmetrize(to_excess))
    both = to_weight + by_excess
    to_probs = (
        jnp.sum(to_precision * precisions, (0, 1))
        + jnp.sum(both * matmul(precisions, residual), (0, 1))
        + jnp.sum(to_excess * excess, (0, 1))
    )
    pulled = to_precision + symmetrize(matmul(both, transpose(residual)))
    lanes = weights.shape[-1]
    to_states = States(
        matmul(precisions, _shares(both + by_excess, probs, lanes)),
        2 * matmul(whitener, _shares(pulled, probs, lanes)),
        _shares(to_excess, probs, lanes),
    )
    return to_states, to_probs


define_vjp(average, _average_forward, _average_backward)


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

    if basis is not None:
        mean, x_roots = (jnp.tensordot(basis.T, x, 1) for x in (mean, x_roots))
    residual = _by_state(mean) - matvec(states.weight, _by_state(u))
    roots = _by_state(x_roots) - matmul(states.weight[:, :size], _by_state(u_roots))
    whitened = matvec(states.whitener, residual)
    spread = matmul(states.whitener, roots)
    second = outer(u, u)
    covariance = matmul(u_roots, transpose(u_roots))
    second = second.at[:size, :size].add(covariance)
    excess = jnp.sum(states.excess * _by_state(second), (0, 1))
    return -0.5 * (jnp.sum(whitened**2, 0) + jnp.sum(spread**2, (0, 1)) + excess)
