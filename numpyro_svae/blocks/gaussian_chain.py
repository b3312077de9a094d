# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Exact inference in a Gaussian Markov chain with Gaussian potentials.

The chain is ``x_0 ~ N(m, P)``, ``x_{t+1} ~ N(A_t x_t + b_t, Q_t)``, and a potential
multiplies it by ``exp(h_t' x_t - x_t' J_t x_t / 2)`` at every step. Messages are kept as
moments and potentials in information form, which stays accurate in single precision
when the dynamics are nearly deterministic (where precision matrices do not).

Layout: entries, time, lanes. Vectors are ``(D, T, N)`` and matrices ``(D, D, T, N)``;
axes of time and lanes have full size or one, and those of size one are shared without
copying. Only the recursions run in a loop over time; everything
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
    condition,
    factor,
    information,
    log_normalizer_terms,
)
from numpyro_svae.blocks.linalg import (
    matmul,
    matmul_transposed,
    matvec,
    outer,
    sum_to,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import (
    Sequence,
    each_step,
    pad,
    pairwise_sum,
    time_inside,
)

__all__ = [
    "Dynamics",
    "Filtered",
    "Gaussian",
    "filter_chain",
    "marginals",
    "no_steps",
    "reverse_conditionals",
    "sample_paths",
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


class Filtered(NamedTuple):
    """Filtered means ``(D, T, N)``, covariances, and the log normaliser ``(N,)``."""

    mean: Array
    cov: Array
    log_normalizer: Array


def no_steps(size: int, dtype) -> Dynamics:
    """Dynamics of a chain of one state."""
    zeros = jnp.zeros((size, size, 1, 1), dtype)
    return Dynamics(zeros, zeros[0], zeros)


# One step and its adjoint


def _square(a: Array, b: Array) -> Array:
    """``a' b a`` for symmetric ``b``."""
    return matmul_transposed(a, matmul(b, a))


def _predict(state: Gaussian, step: Dynamics) -> Gaussian:
    """``N(A m + b, A P A' + Q)``."""
    return Gaussian(
        matvec(step.matrix, state.mean) + step.bias,
        symmetrize(_square(transpose(step.matrix), state.cov) + step.cov),
    )


def _pull_back(matrix: Array, g: Gaussian) -> Gaussian:
    """Cotangents of ``(m, P)`` from those of ``(A m + b, A P A' + Q)``."""
    return Gaussian(matvec(transpose(matrix), g.mean), _square(matrix, g.cov))


def _total(like: Array, *terms: Array) -> Array:
    """Cotangent for ``like``: every term, summed over what ``like`` shares."""
    return sum(sum_to(term, like.shape) for term in terms)


def _matrix_cotangent(matrix: Array, state: Gaussian, g: Gaussian) -> Array:
    through_cov = 2 * matmul(g.cov, matmul(matrix, state.cov))
    return _total(matrix, outer(g.mean, state.mean), through_cov)


def _dynamics_cotangent(states: Gaussian, steps: Dynamics, g: Gaussian) -> Dynamics:
    """Cotangents of the steps where ``g`` are those of the predicted moments."""
    length = states.mean.shape[-2]
    matrix = each_step(_matrix_cotangent, length, steps.matrix, states, g)
    return Dynamics(
        _total(steps.matrix, matrix),
        _total(steps.bias, g.mean),
        _total(steps.cov, g.cov),
    )


def _start(initial: Gaussian, matrices: tuple, vectors: tuple = ()) -> Gaussian:
    """Initial moments with the lanes of the matrices, and means with all lanes."""
    cov_lanes = max(x.shape[-1] for x in (initial.cov, *matrices))
    lanes = max(cov_lanes, *(x.shape[-1] for x in (initial.mean, *vectors)))
    if 0 in [x.shape[-1] for x in (*initial, *matrices, *vectors)]:
        lanes, cov_lanes = 0, 0 if cov_lanes != 1 else 1
    return Gaussian(
        jnp.broadcast_to(initial.mean, initial.mean.shape[:-1] + (lanes,)),
        jnp.broadcast_to(initial.cov, initial.cov.shape[:-1] + (cov_lanes,)),
    )


def _last(g: Gaussian) -> Gaussian:
    """The zero cotangent that enters a backward loop."""
    return Gaussian(jnp.zeros_like(g.mean[..., 0, :]), jnp.zeros_like(g.cov[..., 0, :]))


# Filtering


def filter_chain(initial: Gaussian, dynamics: Dynamics, h: Array, J: Array) -> Filtered:
    """Condition every state on the potentials up to its own time.

    :param initial: moments of ``x_0``, ``(D, N)`` and ``(D, D, N)``.
    :param dynamics: the ``T - 1`` steps.
    :param h: ``(D, T, N)``.
    :param J: ``(D, T, N)``, diagonal, or ``(D, D, T, N)``. Where neither the
        covariances nor ``J`` have lanes, covariances are computed once for all lanes.
    :return: the filtered moments, and ``log E[exp(sum_t psi_t(x_t))]`` under the chain.
    """
    return _filter(initial, Dynamics(*map(pad, dynamics)), h, J)


@custom_vjp
def _filter(initial: Gaussian, steps: Dynamics, h: Array, J: Array) -> Filtered:
    return _filter_fwd(initial, steps, h, J)[0]


def _filter_fwd(initial, steps, h, J):
    length = h.shape[-2]
    potential = each_step(factor, length, h, J)
    sequence = Sequence(length, (steps, potential))

    def step(state, xs):
        step, local = sequence.at(xs)
        posterior = condition(state.mean, state.cov, local)
        filtered = Gaussian(posterior.mean, symmetrize(posterior.cov))
        out = state, filtered, log_normalizer_terms(local, posterior)
        return _predict(filtered, step), out

    state = _start(initial, (steps.matrix, steps.cov, J), (steps.bias, h))
    _, (predicted, filtered, terms) = lax.scan(step, state, sequence.xs, length)
    predicted, filtered = time_inside((predicted, filtered))
    out = Filtered(*filtered, pairwise_sum(terms))
    return out, (initial, steps, h, J, predicted, filtered)


def _direct_cotangent(predicted: Gaussian, h: Array, J: Array, g_log: Array):
    """``W``, ``e``, and the derivatives of the log normaliser in ``m`` and ``P``.

    They are ``e`` and ``(e e' - J W) / 2``.
    """
    potential = factor(h, J)
    posterior = condition(*predicted, potential)
    score = posterior.score
    added = information(predicted.cov, potential)
    g_cov = 0.5 * g_log * outer(score, score), -0.5 * g_log * added
    direct = Gaussian(g_log * score, _total(predicted.cov, *g_cov))
    return posterior.weight, score, direct


def _filter_bwd(residuals, g):
    initial, steps, h, J, predicted, filtered = residuals
    length, g_log = h.shape[-2], g.log_normalizer[None]
    local = each_step(_direct_cotangent, length, predicted, h, J, g_log)
    g_moments = Gaussian(g.mean, symmetrize(g.cov))
    sequence = Sequence(length, (steps.matrix, local, g_moments))

    def step(g_next, xs):
        matrix, (weight, score, direct), g_here = sequence.at(xs)
        back = _pull_back(matrix, g_next)
        g_filtered = Gaussian(back.mean + g_here.mean, back.cov + g_here.cov)
        through = _pull_back(weight, g_filtered)
        cross = symmetrize(outer(through.mean, score))
        g_cov = _total(direct.cov, direct.cov, through.cov, cross)
        return Gaussian(direct.mean + through.mean, g_cov), (g_next, g_filtered)

    g_initial, out = lax.scan(step, _last(g), sequence.xs, length, reverse=True)
    g_predicted, g_filtered = time_inside(out)
    g_h, g_J = each_step(
        _potential_cotangent, length, h, J, filtered, g_filtered, g_log
    )
    return (
        Gaussian(*map(_total, initial, g_initial)),
        _dynamics_cotangent(filtered, steps, g_predicted),
        _total(h, g_h),
        _total(J, g_J),
    )


_filter.defvjp(_filter_fwd, _filter_bwd)


def _potential_cotangent(h, J, filtered: Gaussian, g: Gaussian, g_log: Array):
    """Cotangents of ``h`` and ``J`` from those of filtered moments and normaliser."""
    mean, cov = filtered
    score, weighted = matvec(cov, g.mean), g_log * mean
    g_h = _total(h, score, weighted)
    through = matmul(g.cov, cov)
    if J.ndim == h.ndim:
        variance = jnp.stack([cov[i, i] for i in range(cov.shape[0])])
        terms = (score + 0.5 * weighted) * mean, 0.5 * g_log * variance
        return g_h, -_total(J, jnp.sum(cov * through, 0), *terms)
    cross = symmetrize(outer(score + 0.5 * weighted, mean))
    return g_h, -_total(J, matmul(cov, through), cross, 0.5 * g_log * cov)


# Smoothing


def reverse_conditionals(filtered: Gaussian, dynamics: Dynamics) -> Dynamics:
    """The posterior backwards: ``x_t | x_{t+1} ~ N(G_t x_{t+1} + c_t, V_t)``.

    ``G = P A' (A P A' + Q)^-1``, ``c = m - G (A m + b)``, and ``V`` in the form
    ``(I - G A) P (I - G A)' + G Q G'``, a sum of squares that rounding cannot make
    negative. All steps are independent of each other.

    :param filtered: filtered moments of the first ``T - 1`` states.
    :param dynamics: the ``T - 1`` steps.
    :return: the ``T - 1`` conditionals, in forward order of time.
    """
    return each_step(_reverse_step, filtered.mean.shape[-2], filtered, dynamics)


def _reverse_step(filtered: Gaussian, step: Dynamics) -> Dynamics:
    gain, cov = _reverse(filtered.cov, step.matrix, step.cov)
    predicted = matvec(step.matrix, filtered.mean) + step.bias
    return Dynamics(gain, filtered.mean - matvec(gain, predicted), cov)


@custom_vjp
def _reverse(cov: Array, matrix: Array, noise: Array) -> tuple[Array, Array]:
    return _reverse_fwd(cov, matrix, noise)[0]


def _reverse_fwd(cov, matrix, noise):
    back = transpose(matrix)
    predicted = symmetrize(_square(back, cov) + noise)
    gain, _ = linalg.solve_posdef(predicted, matmul(matrix, cov))  # G'
    rest = linalg.eye(cov) - matmul(back, gain)  # (I - G A)'
    reverse_cov = symmetrize(_square(rest, cov) + _square(gain, noise))
    out = transpose(gain), reverse_cov
    return out, (matrix, cov, noise, predicted, gain, rest, reverse_cov)


def _reverse_bwd(residuals, g):
    matrix, cov, noise, predicted, gain, rest, reverse_cov = residuals
    g_gain, g_cov = transpose(g[0]), symmetrize(g[1])
    y, _ = linalg.solve_posdef(predicted, g_gain)
    weighted = matmul(gain, g_cov)
    through = matmul(y - 2 * weighted, reverse_cov)
    return (
        _total(
            cov,
            symmetrize(matmul(rest, matmul_transposed(y, matrix))),
            _square(transpose(rest), g_cov),
        ),
        _total(matrix, through, -matmul(matmul(gain, transpose(g_gain)), gain)),
        _total(
            noise,
            -symmetrize(matmul(gain, transpose(y))),
            matmul(weighted, transpose(gain)),
        ),
    )


_reverse.defvjp(_reverse_fwd, _reverse_bwd)


# Propagation


def marginals(initial: Gaussian, dynamics: Dynamics, num_steps: int) -> Gaussian:
    """Moments of all states, ``m' = A m + b`` and ``P' = A P A' + Q``.

    :return: means ``(D, T, N)`` and covariances ``(D, D, T, N)``; the covariance of
        neighbours ``Cov(x_{t+1}, x_t)`` is ``A_t P_t``.
    """
    return _marginals(num_steps, initial, Dynamics(*map(pad, dynamics)))


@partial(custom_vjp, nondiff_argnums=(0,))
def _marginals(num_steps: int, initial: Gaussian, steps: Dynamics) -> Gaussian:
    return _marginals_fwd(num_steps, initial, steps)[0]


def _marginals_fwd(num_steps, initial, steps):
    sequence = Sequence(num_steps, steps)

    def step(state, xs):
        return _predict(state, sequence.at(xs)), state

    state = _start(initial, (steps.matrix, steps.cov), (steps.bias,))
    states = time_inside(lax.scan(step, state, sequence.xs, num_steps)[1])
    return states, (initial, steps, states)


def _marginals_bwd(num_steps, residuals, g):
    initial, steps, states = residuals
    g_moments = Gaussian(g.mean, symmetrize(g.cov))
    sequence = Sequence(num_steps, (steps.matrix, g_moments))

    def step(g_next, xs):
        matrix, g_here = sequence.at(xs)
        back = _pull_back(matrix, g_next)
        return Gaussian(back.mean + g_here.mean, back.cov + g_here.cov), g_next

    g_initial, out = lax.scan(step, _last(g), sequence.xs, num_steps, reverse=True)
    return (
        Gaussian(*map(_total, initial, g_initial)),
        _dynamics_cotangent(states, steps, time_inside(out)),
    )


_marginals.defvjp(_marginals_fwd, _marginals_bwd)


# Sampling


@custom_vjp
def sample_paths(initial: Array, matrix: Array, noise: Array) -> Array:
    """Paths ``x_0 = initial``, ``x_{t+1} = A_t x_t + u_t``, for ``S`` samples at once.

    :param initial: ``(D, S, N)``.
    :param matrix: ``A``, ``(D, D, T - 1 or 1, N)``.
    :param noise: ``u``, ``(D, S, T - 1, N)``.
    :return: ``(D, S, T, N)``.
    """
    return _paths_fwd(initial, matrix, noise)[0]


def _paths_fwd(initial, matrix, noise):
    length = noise.shape[-2]
    sequence = Sequence(length, (matrix, noise))

    def step(x, xs):
        matrix, u = sequence.at(xs)
        x = matmul(matrix, x) + u
        return x, x

    paths = time_inside(lax.scan(step, initial, sequence.xs, length)[1])
    paths = jnp.concatenate([initial[..., None, :], paths], -2)
    return paths, (matrix, paths)


def _paths_bwd(residuals, g):
    matrix, paths = residuals
    length = g.shape[-2] - 1
    sequence = Sequence(length, (matrix, g[..., :-1, :]))

    def step(g_next, xs):
        matrix, g_here = sequence.at(xs)
        return g_here + matmul_transposed(matrix, g_next), g_next

    g_initial, g_noise = lax.scan(
        step, g[..., -1, :], sequence.xs, length, reverse=True
    )
    g_noise = time_inside(g_noise)
    g_matrix = each_step(
        _path_matrix_cotangent, length, matrix, paths[..., :-1, :], g_noise
    )
    return g_initial, _total(matrix, g_matrix), g_noise


def _path_matrix_cotangent(matrix: Array, paths: Array, g: Array) -> Array:
    return _total(matrix, matmul(g, transpose(paths)))


sample_paths.defvjp(_paths_fwd, _paths_bwd)
