# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Exact inference in a Gaussian Markov chain with Gaussian potentials.

The chain is ``x_0 ~ N(m, P)``, ``x_{t+1} ~ N(A_t x_t + b_t, Q_t)``, and a potential
multiplies it by ``exp(h_t' x_t - x_t' J_t x_t / 2)`` at every step. Messages are kept as
moments and potentials in information form, which stays accurate in single precision
when the dynamics are nearly deterministic (where precision matrices do not).

Layout: entries, time, lanes. Vectors are ``(D, T, *lanes)`` and matrices
``(D, D, T, *lanes)``; axes of time and lanes have full size or one, and those of size
one are shared without copying. Only the recursions run in a loop over time; everything
else is computed for all steps and lanes at once. Each recursion has its adjoint in
closed form, a loop of small matrix products in the other direction.

**References:** S. Särkkä and L. Svensson, *Bayesian Filtering and Smoothing*, 2nd ed.
(2023), chapters 6 and 12, for the recursions; the covariance update is that of Bucy and
Joseph (1968).
"""

from functools import partial
from typing import NamedTuple

from jax import Array, custom_vjp, lax
import jax.numpy as jnp

from numpyro_svae.blocks import linalg
from numpyro_svae.blocks.conditioning import (
    Potential,
    condition,
    factor,
    information,
    log_normalizer_terms,
)
from numpyro_svae.blocks.linalg import (
    matmul,
    matvec,
    outer,
    sum_to,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import Sequence, pad, pairwise_sum, time_last

__all__ = [
    "Dynamics",
    "Filtered",
    "Gaussian",
    "filter_chain",
    "marginals",
    "no_steps",
    "reverse_conditionals",
    "sample_path",
]


class Gaussian(NamedTuple):
    """Mean ``(D, *lanes)`` and covariance ``(D, D, *lanes)``."""

    mean: Array
    cov: Array


class Dynamics(NamedTuple):
    """Steps ``x_{t+1} ~ N(A_t x_t + b_t, Q_t)``; time axes of size ``T - 1`` or one."""

    matrix: Array
    bias: Array
    cov: Array

    def padded(self) -> "Dynamics":
        """``T`` steps instead of ``T - 1``; the result of the last is not used."""
        return Dynamics(pad(self.matrix, 2), pad(self.bias, 1), pad(self.cov, 2))


class Filtered(NamedTuple):
    """Filtered means ``(D, T, *lanes)``, covariances, and the log normaliser (lanes)."""

    mean: Array
    cov: Array
    log_normalizer: Array


def no_steps(size: int, dtype) -> Dynamics:
    """Dynamics of a chain of one state."""
    zeros = jnp.zeros((size, size, 1, 1), dtype)
    return Dynamics(zeros, zeros[0], zeros)


def _lanes(*arrays: tuple[Array, int]) -> tuple[int, ...]:
    """Common lanes of arrays whose first ``rank`` axes are entries and time."""
    return jnp.broadcast_shapes(*(x.shape[rank:] for x, rank in arrays))


def _square(a: Array, b: Array) -> Array:
    """``a b a'`` for symmetric ``b``."""
    return matmul(matmul(a, b), transpose(a))


def _predict(state: Gaussian, step: Dynamics) -> Gaussian:
    """``N(A m + b, A P A' + Q)``."""
    return Gaussian(
        matvec(step.matrix, state.mean) + step.bias,
        symmetrize(_square(step.matrix, state.cov) + step.cov),
    )


def _total(like: Array, *terms: Array) -> Array:
    """Cotangent for ``like``: every term, summed over what ``like`` shares."""
    return sum(sum_to(term, like.shape) for term in terms)


def _predict_adjoint(state: Gaussian, steps: Dynamics, g: Gaussian) -> Dynamics:
    """Cotangents of the steps where ``g`` are those of the predicted moments."""
    through_cov = 2 * matmul(g.cov, matmul(steps.matrix, state.cov))
    return Dynamics(
        _total(steps.matrix, outer(g.mean, state.mean), through_cov),
        _total(steps.bias, g.mean),
        _total(steps.cov, g.cov),
    )


def _pull_back(matrix: Array, g: Gaussian) -> Gaussian:
    """Cotangents of ``(m, P)`` from those of ``(A m + b, A P A' + Q)``."""
    back = transpose(matrix)
    return Gaussian(matvec(back, g.mean), _square(back, g.cov))


def _broadcast(state: Gaussian, steps: Dynamics, *local: tuple[Array, int]) -> Gaussian:
    """Initial moments with the lanes that they will have after a few steps.

    :param local: ``(J, rank)`` then ``(h, rank)``, with the number of leading axes.
    """
    matrices = (state.cov, 2), (steps.matrix, 3), (steps.cov, 3), *local[:1]
    vectors = (state.mean, 1), (steps.bias, 2), *local[1:]
    cov_lanes = _lanes(*matrices)
    mean_lanes = _lanes(*matrices, *vectors)
    return Gaussian(
        jnp.broadcast_to(state.mean, state.mean.shape[:1] + mean_lanes),
        jnp.broadcast_to(state.cov, state.cov.shape[:2] + cov_lanes),
    )


def _moments_last(moments: Gaussian) -> Gaussian:
    return Gaussian(time_last(moments.mean, 1), time_last(moments.cov, 2))


# Filtering


def filter_chain(initial: Gaussian, dynamics: Dynamics, h: Array, J: Array) -> Filtered:
    """Condition every state on the potentials up to its own time.

    :param initial: moments of ``x_0``, ``(D, *lanes)`` and ``(D, D, *lanes)``.
    :param dynamics: the ``T - 1`` steps.
    :param h: ``(D, T, *lanes)``.
    :param J: ``(D, T, *lanes)``, diagonal, or ``(D, D, T, *lanes)``. Where neither the
        covariances nor ``J`` have lanes, covariances are computed once for all lanes.
    :return: the filtered moments, and ``log E[exp(sum_t psi_t(x_t))]`` under the chain.
    """
    return _filter(initial, dynamics.padded(), h, J)


@custom_vjp
def _filter(initial: Gaussian, steps: Dynamics, h: Array, J: Array) -> Filtered:
    return _filter_fwd(initial, steps, h, J)[0]


def _filter_fwd(initial, steps, h, J):
    potential = factor(h, J)
    root_rank = potential.root.ndim - h.ndim + 1
    sequence = Sequence(
        h.shape[1],
        *((steps.matrix, 2), (steps.bias, 1), (steps.cov, 2)),
        *((potential.root, root_rank), (potential.white, 1), (potential.rest, 1)),
    )

    def step(state, xs):
        matrix, bias, cov, *local = sequence.at(xs)
        posterior = condition(state.mean, state.cov, Potential(*local))
        filtered = Gaussian(posterior.mean, symmetrize(posterior.cov))
        out = state, filtered, log_normalizer_terms(Potential(*local), posterior)
        return _predict(filtered, Dynamics(matrix, bias, cov)), out

    state = _broadcast(initial, steps, (J, root_rank + 1), (h, 2))
    _, (predicted, filtered, terms) = lax.scan(step, state, sequence.xs, h.shape[1])
    predicted, filtered = _moments_last(predicted), _moments_last(filtered)
    out = Filtered(*filtered, pairwise_sum(terms))
    return out, (initial, steps, h, J, predicted, filtered)


def _filter_bwd(residuals, g):
    initial, steps, h, J, predicted, filtered = residuals
    potential = factor(h, J)
    posterior = condition(*predicted, potential)
    score, weight = posterior.score, posterior.weight
    added = information(potential, posterior.tril)
    g_log = g.log_normalizer[None]
    # Derivatives of the log normaliser in the predicted moments.
    direct = Gaussian(
        g_log * score,
        _total(predicted.cov, 0.5 * g_log * outer(score, score), -0.5 * g_log * added),
    )
    sequence = Sequence(
        h.shape[1],
        *((steps.matrix, 2), (weight, 2), (score, 1)),
        *((direct.mean, 1), (direct.cov, 2), (g.mean, 1), (symmetrize(g.cov), 2)),
    )

    def step(g_next, xs):
        matrix, weight, score, mean, cov, g_mean, g_cov = sequence.at(xs)
        back = _pull_back(matrix, g_next)
        g_filtered = Gaussian(back.mean + g_mean, back.cov + g_cov)
        through = _pull_back(weight, g_filtered)
        cross = symmetrize(outer(through.mean, score))
        g_state = Gaussian(
            mean + through.mean, cov + through.cov + sum_to(cross, cov.shape)
        )
        return g_state, (g_next, g_filtered)

    first = Gaussian(jnp.zeros_like(g.mean[:, 0]), jnp.zeros_like(g.cov[:, :, 0]))
    g_initial, (g_predicted, g_filtered) = lax.scan(
        step, first, sequence.xs, h.shape[1], reverse=True
    )
    g_predicted, g_filtered = _moments_last(g_predicted), _moments_last(g_filtered)
    return (
        Gaussian(*map(_total, initial, g_initial)),
        _predict_adjoint(filtered, steps, g_predicted),
        _total(h, matvec(filtered.cov, g_filtered.mean), g_log * filtered.mean),
        _precision_cotangent(J, filtered, g_filtered, g_log),
    )


_filter.defvjp(_filter_fwd, _filter_bwd)


def _precision_cotangent(J, filtered: Gaussian, g: Gaussian, g_log) -> Array:
    """Cotangent of ``J``, from those of the filtered moments and log normaliser."""
    mean, cov = filtered
    score = matvec(cov, g.mean)
    squares = g_log * mean
    if J.ndim == mean.ndim:
        through = jnp.sum(cov * matmul(g.cov, cov), 0)
        variance = jnp.stack([cov[i, i] for i in range(cov.shape[0])])
        terms = through, score * mean, 0.5 * squares * mean, 0.5 * g_log * variance
    else:
        terms = (
            _square(cov, g.cov),
            symmetrize(outer(score, mean)),
            0.5 * outer(squares, mean),
            0.5 * g_log[None] * cov,
        )
    return -_total(J, *terms)


# Smoothing


def reverse_conditionals(filtered: Gaussian, dynamics: Dynamics) -> Dynamics:
    """The chain of the posterior, backwards: ``x_t | x_{t+1} ~ N(G_t x_{t+1} + c_t, V_t)``.

    ``G = P A' (A P A' + Q)^-1``, ``c = m - G (A m + b)``, and ``V`` in the form
    ``(I - G A) P (I - G A)' + G Q G'``, a sum of squares that rounding cannot make
    negative. All steps are independent of each other.

    :param filtered: filtered moments of the first ``T - 1`` states.
    :param dynamics: the ``T - 1`` steps.
    :return: the ``T - 1`` conditionals, in forward order of time.
    """
    gain, cov = _reverse(filtered.cov, dynamics.matrix, dynamics.cov)
    mean = filtered.mean
    predicted = matvec(dynamics.matrix, mean) + dynamics.bias
    return Dynamics(gain, mean - matvec(gain, predicted), cov)


@custom_vjp
def _reverse(cov: Array, matrix: Array, noise: Array) -> tuple[Array, Array]:
    return _reverse_fwd(cov, matrix, noise)[0]


def _reverse_fwd(cov, matrix, noise):
    cross = matmul(matrix, cov)
    tril = linalg.cholesky(symmetrize(matmul(cross, transpose(matrix)) + noise))
    half = linalg.solve_lower(tril, cross)
    gain = transpose(linalg.solve_lower_transposed(tril, half))
    rest = linalg.eye(cov) - matmul(gain, matrix)
    reverse_cov = symmetrize(_square(rest, cov) + _square(gain, noise))
    return (gain, reverse_cov), (cov, matrix, noise, gain, reverse_cov, rest, tril)


def _reverse_bwd(residuals, g):
    cov, matrix, noise, gain, reverse_cov, rest, tril = residuals
    g_gain, g_cov = g[0], symmetrize(g[1])
    half = linalg.solve_lower(tril, transpose(g_gain))
    y = transpose(linalg.solve_lower_transposed(tril, half))
    weighted = matmul(transpose(gain), g_cov)
    direct = matmul(y, matrix)
    return (
        _total(
            cov,
            symmetrize(matmul(transpose(rest), direct)),
            _square(transpose(rest), g_cov),
        ),
        _total(
            matrix,
            matmul(transpose(y - 2 * matmul(g_cov, gain)), reverse_cov),
            -matmul(matmul(transpose(gain), g_gain), transpose(gain)),
        ),
        _total(noise, -symmetrize(matmul(transpose(gain), y)), matmul(weighted, gain)),
    )


_reverse.defvjp(_reverse_fwd, _reverse_bwd)


# Propagation


def marginals(initial: Gaussian, dynamics: Dynamics, num_steps: int) -> Gaussian:
    """Moments of all states, ``m' = A m + b`` and ``P' = A P A' + Q``.

    :return: means ``(D, T, *lanes)`` and covariances ``(D, D, T, *lanes)``; the
        covariance of neighbours ``Cov(x_{t+1}, x_t)`` is ``A_t P_t``.
    """
    return _marginals(num_steps, initial, dynamics.padded())


@partial(custom_vjp, nondiff_argnums=(0,))
def _marginals(num_steps: int, initial: Gaussian, steps: Dynamics) -> Gaussian:
    return _marginals_fwd(num_steps, initial, steps)[0]


def _marginals_fwd(num_steps, initial, steps):
    sequence = Sequence(num_steps, (steps.matrix, 2), (steps.bias, 1), (steps.cov, 2))

    def step(state, xs):
        return _predict(state, Dynamics(*sequence.at(xs))), state

    state = _broadcast(initial, steps)
    states = _moments_last(lax.scan(step, state, sequence.xs, num_steps)[1])
    return states, (initial, steps, states)


def _marginals_bwd(num_steps, residuals, g):
    initial, steps, states = residuals
    sequence = Sequence(
        num_steps, (steps.matrix, 2), (g.mean, 1), (symmetrize(g.cov), 2)
    )

    def step(g_next, xs):
        matrix, g_mean, g_cov = sequence.at(xs)
        back = _pull_back(matrix, g_next)
        return Gaussian(back.mean + g_mean, back.cov + g_cov), g_next

    first = Gaussian(jnp.zeros_like(g.mean[:, 0]), jnp.zeros_like(g.cov[:, :, 0]))
    g_initial, g_next = lax.scan(step, first, sequence.xs, num_steps, reverse=True)
    return (
        Gaussian(*map(_total, initial, g_initial)),
        _predict_adjoint(states, steps, _moments_last(g_next)),
    )


_marginals.defvjp(_marginals_fwd, _marginals_bwd)


# Sampling


def sample_path(initial: Array, matrix: Array, noise: Array) -> Array:
    """The path ``x_0 = initial``, ``x_{t+1} = A_t x_t + u_t``.

    :param initial: ``(D, *lanes)``.
    :param matrix: ``(D, D, T - 1 or 1, *lanes)``.
    :param noise: ``u``, ``(D, T - 1, *lanes)``.
    :return: ``(D, T, *lanes)``.
    """
    return _path(initial, matrix, noise)


@custom_vjp
def _path(initial, matrix, noise):
    return _path_fwd(initial, matrix, noise)[0]


def _path_fwd(initial, matrix, noise):
    sequence = Sequence(noise.shape[1], (matrix, 2), (noise, 1))

    def step(x, xs):
        matrix, u = sequence.at(xs)
        x = matvec(matrix, x) + u
        return x, x

    lanes = _lanes((initial, 1), (matrix, 3), (noise, 2))
    x = jnp.broadcast_to(initial, initial.shape[:1] + lanes)
    path = time_last(lax.scan(step, x, sequence.xs, noise.shape[1])[1], 1)
    path = jnp.concatenate([x[:, None], path], 1)
    return path, (initial, matrix, noise, path)


def _path_bwd(residuals, g):
    initial, matrix, noise, path = residuals
    sequence = Sequence(noise.shape[1], (matrix, 2), (g[:, :-1], 1))

    def step(g_next, xs):
        matrix, g_here = sequence.at(xs)
        return g_here + matvec(transpose(matrix), g_next), g_next

    g_initial, g_noise = lax.scan(
        step, g[:, -1], sequence.xs, noise.shape[1], reverse=True
    )
    g_noise = time_last(g_noise, 1)
    return (
        _total(initial, g_initial),
        _total(matrix, outer(g_noise, path[:, :-1])),
        _total(noise, g_noise),
    )


_path.defvjp(_path_fwd, _path_bwd)
