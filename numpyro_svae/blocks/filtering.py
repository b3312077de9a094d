# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Filtering in a Gaussian chain, forwards in moments, with its adjoint backwards.

**References:** S. Särkkä and L. Svensson, *Bayesian Filtering and Smoothing*, 2nd ed.
(2023), chapter 6; the form of the covariance is that of Bucy and Joseph (1968).
"""

from typing import NamedTuple

from jax import Array, custom_vjp, lax
import jax.numpy as jnp

from numpyro_svae.blocks.chain_steps import (
    Dynamics,
    Gaussian,
    dynamics_cotangent,
    predict,
    pull_back,
    start,
    total,
    zero_cotangent,
)
from numpyro_svae.blocks.conditioning import (
    condition,
    factor,
    information,
    log_normalizer_terms,
)
from numpyro_svae.blocks.linalg import matmul, matvec, outer, symmetrize
from numpyro_svae.blocks.loops import (
    Sequence,
    each_step,
    pad,
    pairwise_sum,
    time_inside,
)

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
        return predict(filtered, step), out

    state = start(initial, (steps.matrix, steps.cov, J), (steps.bias, h))
    _, (predicted, filtered, terms) = lax.scan(step, state, sequence.xs, length)
    predicted, filtered = time_inside((predicted, filtered))
    out = Filtered(filtered.mean, filtered.cov, pairwise_sum(terms))
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
    direct = Gaussian(g_log * score, total(predicted.cov, *g_cov))
    return posterior.weight, score, direct


def _filter_bwd(residuals, g):
    initial, steps, h, J, predicted, filtered = residuals
    length, g_log = h.shape[-2], g.log_normalizer[None]
    local = each_step(_direct_cotangent, length, predicted, h, J, g_log)
    g_moments = Gaussian(g.mean, symmetrize(g.cov))
    sequence = Sequence(length, (steps.matrix, local, g_moments))

    def step(g_next, xs):
        matrix, (weight, score, direct), g_here = sequence.at(xs)
        back = pull_back(matrix, g_next)
        g_filtered = Gaussian(back.mean + g_here.mean, back.cov + g_here.cov)
        through = pull_back(weight, g_filtered)
        cross = symmetrize(outer(through.mean, score))
        g_cov = total(direct.cov, direct.cov, through.cov, cross)
        return Gaussian(direct.mean + through.mean, g_cov), (g_next, g_filtered)

    g_initial, out = lax.scan(
        step, zero_cotangent(g), sequence.xs, length, reverse=True
    )
    g_predicted, g_filtered = time_inside(out)
    g_h, g_J = each_step(
        _potential_cotangent, length, h, J, filtered, g_filtered, g_log
    )
    return (
        Gaussian(*map(total, initial, g_initial)),
        dynamics_cotangent(filtered, steps, g_predicted),
        total(h, g_h),
        total(J, g_J),
    )


_filter.defvjp(_filter_fwd, _filter_bwd)


def _potential_cotangent(h, J, filtered: Gaussian, g: Gaussian, g_log: Array):
    """Cotangents of ``h`` and ``J`` from those of filtered moments and normaliser."""
    mean, cov = filtered
    score, weighted = matvec(cov, g.mean), g_log * mean
    g_h = total(h, score, weighted)
    through = matmul(g.cov, cov)
    if J.ndim == h.ndim:
        variance = jnp.stack([cov[i, i] for i in range(cov.shape[0])])
        terms = (score + 0.5 * weighted) * mean, 0.5 * g_log * variance
        return g_h, -total(J, jnp.sum(cov * through, 0), *terms)
    cross = symmetrize(outer(score + 0.5 * weighted, mean))
    return g_h, -total(J, matmul(cov, through), cross, 0.5 * g_log * cov)
