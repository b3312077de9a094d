# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Messages of a Gaussian factor ``E_q log N(v; F u, Sigma)`` with ``u = U x + c``.

The energy of a model is multilinear in the expected statistics of its blocks and every
message is its gradient (Winn and Bishop, *Variational message passing*, JMLR 2005).
Here the gradients are written out in the centred form of
:class:`~numpyro_svae.families.ExpectedRegression`.

Arrays have the positions of a site leading, then the components K of a discrete parent
if there is one, then the event.
"""

from __future__ import annotations

import math
from math import log, pi
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
import numpy as np

from numpyro_svae.blocks import switching
from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.families import ExpectedRegression
from numpyro_svae.inference.factors.densities import log_density, whitener_of
from numpyro_svae.potentials import GaussianPotential

__all__ = [
    "GaussianMessage",
    "average",
    "expected_log_density",
    "expected_response",
    "expected_transitions",
    "in_states",
    "normalizer_gap",
    "proper",
    "proper_regression",
    "to_child",
    "to_parent",
    "with_states",
]


class GaussianMessage(NamedTuple):
    """A message to the response: ``log N(v; loc, covariance) + offset``."""

    loc: Array
    covariance: Array
    offset: Array


def _quadratic(matrix: Array, x: Array) -> Array:
    return jnp.einsum("...i,...ij,...j->...", x, matrix, x)


def _apply(matrix: Array, x: Array) -> Array:
    return jnp.einsum("...ij,...j->...i", matrix, x)


def with_states(regression: ExpectedRegression) -> ExpectedRegression:
    """The same factor for each state: an axis of size one after the positions."""

    def expand(leaf: Array, event_dim: int) -> Array:
        return jnp.expand_dims(leaf, -1 - event_dim) if leaf.ndim > event_dim else leaf

    weight, covariance, excess, log_det = regression
    return ExpectedRegression(
        expand(weight, 2), expand(covariance, 2), expand(excess, 2), expand(log_det, 0)
    )


def in_states(regression: ExpectedRegression, count: int) -> ExpectedRegression:
    """A factor given for each state, with an axis of all states in all of its moments.

    :param regression: with states after the positions, of size one where they are
        alike.
    :param count: number of states.
    """

    def widen(leaf: Array, event_dim: int) -> Array:
        batch, event = leaf.shape[: leaf.ndim - event_dim], leaf.shape[-event_dim:]
        event = event if event_dim else ()
        return jnp.broadcast_to(leaf, (*batch[:-1], count, *event))

    weight, covariance, excess, log_det = regression
    return ExpectedRegression(
        widen(weight, 2), widen(covariance, 2), widen(excess, 2), widen(log_det, 0)
    )


def normalizer_gap(regression: ExpectedRegression) -> Array:
    """``(log|covariance| - E log|Sigma|) / 2``: log mass of the factor."""
    return 0.5 * (whitener_of(regression.covariance)[1] - regression.log_det)


def proper_regression(regression: ExpectedRegression) -> ExpectedRegression:
    """The density ``N(v; weight u, covariance)``, which has no other normaliser."""
    weight, covariance, excess, _ = regression
    log_det = whitener_of(regression.covariance)[1]
    return ExpectedRegression(weight, covariance, jnp.zeros_like(excess), log_det)


def proper(potential: GaussianPotential) -> GaussianMessage:
    """The density that is proportional to the exponential of a potential."""
    tril = jnp.linalg.cholesky(potential.full_precision())
    identity = jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape)
    covariance = cho_solve((tril, True), identity)
    loc = _apply(covariance, potential.info_vector)
    return GaussianMessage(loc, covariance, jnp.zeros(()))


def to_child(regression: ExpectedRegression, u: Array) -> GaussianMessage:
    """Message to the response at a known regressor ``(..., M)``."""
    offset = normalizer_gap(regression) - 0.5 * _quadratic(regression.excess, u)
    loc = _apply(regression.weight, u)
    return GaussianMessage(loc, regression.covariance, offset)


def _state_precision(
    regression: ExpectedRegression, whitener: Array, parent_map: Array
) -> Array:
    """``U' E[F' Sigma^-1 F] U``, given the whitener of the covariance."""
    half = whitener @ regression.weight @ parent_map
    precision = jnp.swapaxes(half, -1, -2) @ half
    return precision + parent_map.T @ regression.excess @ parent_map


def to_parent(
    regression: ExpectedRegression, v: Array, c: Array, parent_map: Array
) -> GaussianPotential:
    """Message to the state x of the regressor ``U x + c`` at a known response.

    :param regression: the factor.
    :param v: responses, of shape ``(..., D)``.
    :param c: the known part of the regressor, of shape ``(..., M)``.
    :param parent_map: U, of shape ``(M, dimension of x)``.
    """
    whitener, _ = whitener_of(regression.covariance)
    residual = _apply(whitener, v - _apply(regression.weight, c))
    whitened_weight = whitener @ regression.weight
    pull = jnp.einsum("...im,...i->...m", whitened_weight, residual)
    info = (pull - _apply(regression.excess, c)) @ parent_map
    precision = _state_precision(regression, whitener, parent_map)
    precision = jnp.broadcast_to(precision, info.shape + info.shape[-1:])
    return GaussianPotential(info, precision)


def expected_log_density(
    regression: ExpectedRegression,
    v: Array,
    c: Array,
    parent_map: Array,
    mean: Array,
    covariance: Array,
) -> Array:
    """The factor at a known response, averaged over the state of the regressor.

    :param mean: of the state, ``(..., Dx)``.
    :param covariance: of the state, ``(..., Dx, Dx)``.
    """
    u = mean @ parent_map.T + c
    whitener, _ = whitener_of(regression.covariance)
    precision = _state_precision(regression, whitener, parent_map)
    spread = jnp.einsum("...ij,...ij->...", precision, covariance)
    return log_density(regression, v, u, whitener) - 0.5 * spread


# regressions by state


def _states(regression: ExpectedRegression) -> switching.States:
    """Regressions ``(..., K)`` in the layout of the blocks."""
    whitener, _ = whitener_of(regression.covariance)

    def to_lanes(x: Array) -> Array:
        x = x.reshape(-1, *x.shape[-3:])
        return jnp.transpose(x, (2, 3, 1, 0))

    weight, whitener = to_lanes(regression.weight), to_lanes(whitener)
    return switching.States(weight, whitener, to_lanes(regression.excess))


def average(regression: ExpectedRegression, probs: Array) -> ExpectedRegression:
    """Average regressions over the probabilities of the states.

    :param regression: with batch ``(K,)`` or ``(*positions, K)``.
    :param probs: of shape ``(*positions, K)``.
    :return: regressions with batch ``positions``.
    """
    batch, size = probs.shape[:-1], probs.shape[-1]
    regression = _alike(regression, batch)
    found = switching.average(_states(regression), probs.reshape(-1, size).T)
    log_det = jnp.sum(probs * regression.log_det, -1)

    def from_lanes(x: Array) -> Array:
        return jnp.transpose(x, (2, 0, 1)).reshape(*batch, *x.shape[:2])

    return ExpectedRegression(
        from_lanes(found.weight),
        from_lanes(found.covariance),
        from_lanes(found.excess),
        log_det,
    )


def _alike(
    regression: ExpectedRegression, batch: tuple[int, ...]
) -> ExpectedRegression:
    """Regressions ``(K,)`` as they are; others with the whole batch."""
    if regression.log_det.ndim == 1 and regression.weight.ndim == 3:
        return regression

    def widen(leaf: Array, event_dim: int) -> Array:
        goal = batch + leaf.shape[leaf.ndim - event_dim :]
        return jnp.broadcast_to(leaf, goal)

    return ExpectedRegression(
        widen(regression.weight, 3),
        widen(regression.covariance, 3),
        widen(regression.excess, 3),
        widen(regression.log_det, 1),
    )


def expected_transitions(
    regression: ExpectedRegression,
    chain: LinearGaussianChain,
    inputs: Array,
    basis: np.ndarray | None = None,
) -> Array:
    """Expected log densities of the steps of a path, by state.

    :param regression: the transitions, with batch ``(K,)`` or ``(..., T - 1, K)``.
    :param chain: the distribution of the path.
    :param inputs: of shape ``(..., T - 1, A)``.
    :param basis: the directions ``(D, d)`` of a state that the transitions are of; None
        for all of it.
    :return: of shape ``(..., T - 1, K)``.
    """
    chain = chain if chain.time_reversed else chain.reverse()
    batch, (steps, dim) = chain.batch_shape, chain.event_shape
    positions = (*batch, steps - 1)

    def to_lanes(x: Array, event_dim: int) -> Array:
        x = jnp.broadcast_to(x, positions + x.shape[x.ndim - event_dim :])
        x = x.reshape(math.prod(positions), *x.shape[len(positions) :])
        return jnp.moveaxis(x, 0, -1)

    matrix = jnp.flip(chain.transition_matrix, -3)  # of the posterior, with its bias
    noise = jnp.flip(chain.transition_cov, -3)
    later = chain.mean[..., 1:, :], chain.covariance[..., 1:, :, :]
    regression = _alike(regression, positions)
    score = switching.score_transitions(
        _states(regression),
        (to_lanes(later[0], 1), to_lanes(later[1], 2)),
        (
            to_lanes(matrix[..., :dim], 2),
            to_lanes(matrix[..., dim], 1),
            to_lanes(noise, 2),
        ),
        to_lanes(inputs, 1),
        basis,
    )
    score = jnp.moveaxis(score, -1, 0).reshape(*positions, len(score))
    dim = regression.covariance.shape[-1]
    return score - 0.5 * (regression.log_det + dim * log(2 * pi))


def expected_response(
    regression: ExpectedRegression, u: Array, mean: Array, covariance: Array
) -> Array:
    """The factor at a known regressor, averaged over its response.

    :param u: regressors ``(..., M)``.
    :param mean: of the response, ``(..., D)``.
    :param covariance: of the response, ``(..., D, D)``.
    """
    whitener, _ = whitener_of(regression.covariance)
    precision = jnp.swapaxes(whitener, -1, -2) @ whitener
    spread = jnp.einsum("...ij,...ij->...", precision, covariance)
    return log_density(regression, mean, u, whitener) - 0.5 * spread
