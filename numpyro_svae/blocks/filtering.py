# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Filtering in a Gaussian chain, forwards in moments, with its adjoint backwards.

**References:** S. Särkkä and L. Svensson, *Bayesian Filtering and Smoothing*, 2nd ed.
(2023), chapter 6; the form of the covariance is that of Bucy and Joseph (1968).
"""

from functools import partial
from typing import NamedTuple

import jax
from jax import Array, custom_vjp
import jax.numpy as jnp

from numpyro_svae.blocks.chain_steps import (
    Dynamics,
    Gaussian,
    dynamics_cotangent,
    predict,
    start,
    total,
)
from numpyro_svae.blocks.chunks import chunk_count, join, linear_scan, split
from numpyro_svae.blocks.conditioning import Potential, factor
from numpyro_svae.blocks.filter_chunks import chunk_starts
from numpyro_svae.blocks.linalg import (
    dot,
    matmul,
    matmul_transposed,
    matvec,
    outer,
    square,
    sum_to,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import each_step, over_time, pairwise_sum, some_steps
from numpyro_svae.blocks.terms import collect
from numpyro_svae.derivatives import define_vjp, dense, is_zero, values

__all__ = ["Filtered", "filter_chain"]


class Filtered(NamedTuple):
    """Filtered means ``(D, T, N)``, covariances, and the log normaliser ``(N,)``."""

    mean: Array
    cov: Array
    log_normalizer: Array


def filter_chain(initial: Gaussian, dynamics: Dynamics, h: Array, J: Array) -> Filtered:
    """Condition every state on the potentials up to its own time.

    :param initial: moments of ``x_0``, ``(D, N)`` and ``(D, D, N)``.
    :param dynamics: the ``T - 1`` steps.
    :param h: ``(D, T, N)``.
    :param J: ``(D, T, N)``, diagonal, or ``(D, D, T, N)``. Where neither the
        covariances nor ``J`` have lanes, covariances are computed once for all lanes.
    :return: the filtered moments, and ``log E[exp(sum_t psi_t(x_t))]`` under the chain.
    """
    return _filter(initial, some_steps(dynamics), h, J)


@custom_vjp
def _filter(initial: Gaussian, steps: Dynamics, h: Array, J: Array) -> Filtered:
    return _filtered(initial, steps, h, J)[0]


def _filter_fwd(*given):
    return _filtered(*values(given))


def _filtered(initial, steps, h, J):
    length = h.shape[-2]
    potential = each_step(factor, length, h, J)
    state = start(initial, (steps.matrix, steps.cov, J), (steps.bias, h))
    predicted, filtered, terms = _filter_steps(state, steps, potential, length)
    out = Filtered(filtered.mean, filtered.cov, pairwise_sum(terms))
    return out, (initial, steps, h, J, predicted, filtered)


def _filter_steps(state: Gaussian, steps: Dynamics, potential: Potential, length: int):
    """Predicted and filtered moments, and the terms of the log normaliser."""
    size, lanes = state.mean.shape
    chunks = chunk_count(length, lanes, size)
    if chunks == 1:
        return _in_order(state, steps, potential, length)
    matrix, *shifts = steps
    cut = partial(split, length=length, chunks=chunks, lanes=lanes)
    steps = Dynamics(cut(matrix, identity=True), *map(cut, shifts))
    potential = jax.tree.map(cut, potential)
    own = -(-length // chunks)
    state = Gaussian(*(jnp.broadcast_to(x, (*x.shape[:-1], lanes)) for x in state))
    begin = chunk_starts(state, steps, potential, own, chunks)
    out = _in_order(begin, steps, potential, own)
    return jax.tree.map(lambda x: join(x, chunks, length), out)


def _in_order(state: Gaussian, steps: Dynamics, potential: Potential, length: int):
    def move(state, step, local):
        filtered, term = local.condition(*state)
        return predict(filtered, step), (state, filtered, term)

    return over_time(move, state, length, steps, potential)[1]


def _direct_cotangent(predicted, h, J, g_log, g_log_cov):
    """``W``, ``e``, and the derivatives of the log normaliser in ``m`` and ``P``.

    They are ``e`` and ``(e e' - J W) / 2``, the latter as terms to add up; None where
    nothing is asked of the log normaliser.
    """
    weight, score, information = factor(h, J).pull(*predicted)
    if g_log is None:
        return weight, score, None, collect()
    g_cov = 0.5 * g_log * outer(score, score), -0.5 * g_log_cov * information
    return weight, score, g_log * score, collect(*g_cov)


def _mean_adjoint(length: int, matrix, weight, direct: Array | None, g_mean):
    """Cotangents of predicted means: of the first, later and filtered ones, and those
    that pass through the conditioning.
    """

    def step(g_next, matrices, shifts):
        (matrix, weight), (direct, g_here) = matrices, shifts
        g_filtered = matvec(transpose(matrix), g_next) + g_here
        through = matvec(transpose(weight), g_filtered)
        g_own = through if direct is None else direct + through
        return g_own, (g_next, g_filtered, through)

    zero = jnp.zeros_like(g_mean[..., 0, :])
    spans = (matrix, weight), (direct, g_mean)
    first, out = linear_scan(step, _push_back, zero, *spans, length, reverse=True)
    return first, *out


def _cov_adjoint(length: int, matrix, weight, direct, g_cov):
    """Cotangents of predicted covariances: of the first, later and filtered ones."""

    def step(g_next, matrices, shifts):
        (matrix, weight), (direct, g_here) = matrices, shifts
        g_filtered = square(matrix, g_next) + g_here
        return direct + square(weight, g_filtered), (g_next, g_filtered)

    zero = jnp.zeros_like(direct[..., 0, :])
    spans = (matrix, weight), (direct, g_cov)
    first, out = linear_scan(
        step, _push_back, zero, *spans, length, reverse=True, squares=True
    )
    return first, *out


def _push_back(matrices, columns):
    matrix, weight = matrices
    return matmul_transposed(weight, matmul_transposed(matrix, columns))


def _cross(through: Array, score: Array) -> Array:
    return symmetrize(outer(through, score))


def _filter_bwd(residuals, g):
    """Means first, as the cotangents of covariances, which lanes may share, need them.

    Only sums between the loops cross the lanes.
    """
    initial, steps, h, J, predicted, filtered = residuals
    length = h.shape[-2]
    logs: tuple[Array | None, Array | None] = None, None
    if not is_zero(g.log_normalizer):
        g_log = g.log_normalizer[None]
        logs = g_log, sum_to(g_log, (1, predicted.cov.shape[-1]))
    g = dense(g)
    weight, score, direct, direct_cov = each_step(
        _direct_cotangent, length, predicted, h, J, *logs
    )
    g_first, g_next, g_mean, through = _mean_adjoint(
        length, steps.matrix, weight, direct, g.mean
    )
    cross = each_step(_cross, length, through, score)
    direct_cov = total(predicted.cov, *direct_cov, cross)
    g_first_cov, g_next_cov, g_cov = _cov_adjoint(
        length, steps.matrix, weight, direct_cov, symmetrize(g.cov)
    )
    g_filtered = Gaussian(g_mean, g_cov)
    g_h, g_J = each_step(_potential_cotangent, length, J, filtered, g_filtered, *logs)
    return (
        Gaussian(*map(total, initial, (g_first, g_first_cov))),
        dynamics_cotangent(filtered, steps, Gaussian(g_next, g_next_cov)),
        total(h, *g_h),
        total(J, *g_J),
    )


define_vjp(_filter, _filter_fwd, _filter_bwd, symbolic_zeros=True)


def _potential_cotangent(J, filtered: Gaussian, g: Gaussian, g_log, g_log_cov):
    """Terms of the cotangents of ``h`` and ``J``."""
    mean, cov = filtered
    score, through = matvec(cov, g.mean), matmul(g.cov, cov)
    if g_log is None:
        if J.ndim == mean.ndim:
            return collect(score), collect(-dot(cov, through), -score * mean)
        cross = symmetrize(outer(score, mean))
        return collect(score), collect(-matmul(cov, through), -cross)
    weighted = g_log * mean
    g_h = collect(score, weighted)
    if J.ndim == mean.ndim:
        variance = jnp.stack([cov[i, i] for i in range(cov.shape[0])])
        terms = -(score + 0.5 * weighted) * mean, -0.5 * g_log_cov * variance
        return g_h, collect(-dot(cov, through), *terms)
    cross = symmetrize(outer(score + 0.5 * weighted, mean))
    return g_h, collect(-matmul(cov, through), -cross, -0.5 * g_log_cov * cov)
