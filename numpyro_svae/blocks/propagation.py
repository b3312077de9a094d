# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Moments and samples of a Gaussian Markov chain, forwards, with adjoints backwards."""

from functools import partial

import jax
from jax import Array, custom_vjp
import jax.numpy as jnp

from numpyro_svae.blocks.chain_steps import (
    Dynamics,
    Gaussian,
    dynamics_cotangent,
    start,
    total,
    zero_cotangent,
)
from numpyro_svae.blocks.chunks import linear_scan
from numpyro_svae.blocks.linalg import (
    matmul,
    matmul_transposed,
    matvec,
    square,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import each_step, some_steps
from numpyro_svae.derivatives import define_vjp

__all__ = ["marginals", "sample_paths"]


@partial(jax.jit, static_argnums=2)
def marginals(initial: Gaussian, dynamics: Dynamics, num_steps: int) -> Gaussian:
    """Moments of all states, ``m' = A m + b`` and ``P' = A P A' + Q``.

    :return: means ``(D, T, N)`` and covariances ``(D, D, T, N)``; the covariance of
        neighbours ``Cov(x_{t+1}, x_t)`` is ``A_t P_t``.
    """
    return _marginals(num_steps, initial, some_steps(dynamics))


@partial(custom_vjp, nondiff_argnums=(0,))
def _marginals(num_steps: int, initial: Gaussian, steps: Dynamics) -> Gaussian:
    return _marginals_fwd(num_steps, initial, steps)[0]


def _marginals_fwd(num_steps, initial, steps):
    state = start(initial, (steps.matrix, steps.cov), (steps.bias,))
    spans = steps.matrix, (steps.bias,), num_steps

    def mean_step(mean, matrix, shifts):
        return matvec(matrix, mean) + shifts[0], mean

    def cov_step(cov, matrix, shifts):
        return symmetrize(square(transpose(matrix), cov) + shifts[0]), cov

    _, mean = linear_scan(mean_step, matmul, state.mean, *spans)
    spans = steps.matrix, (steps.cov,), num_steps
    _, cov = linear_scan(cov_step, matmul, state.cov, *spans, squares=True)
    states = Gaussian(mean, cov)
    return states, (initial, steps, states)


def _marginals_bwd(num_steps, residuals, g):
    initial, steps, states = residuals
    zero = zero_cotangent(g)

    def mean_step(g_next, matrix, shifts):
        return matvec(transpose(matrix), g_next) + shifts[0], g_next

    def cov_step(g_next, matrix, shifts):
        return square(matrix, g_next) + shifts[0], g_next

    back = partial(linear_scan, length=num_steps, reverse=True)
    spans = steps.matrix, (g.mean,)
    first, mean = back(mean_step, matmul_transposed, zero.mean, *spans)
    spans = steps.matrix, (symmetrize(g.cov),)
    first_cov, cov = back(cov_step, matmul_transposed, zero.cov, *spans, squares=True)
    return (
        Gaussian(*map(total, initial, (first, first_cov))),
        dynamics_cotangent(states, steps, Gaussian(mean, cov)),
    )


define_vjp(_marginals, _marginals_fwd, _marginals_bwd)


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
    def step(x, matrix, noise):
        x = matmul(matrix, x) + noise
        return x, x

    _, paths = linear_scan(step, matmul, initial, matrix, noise, noise.shape[-2])
    paths = jnp.concatenate([initial[..., None, :], paths], -2)
    return paths, (matrix, paths)


def _paths_bwd(residuals, g):
    matrix, paths = residuals
    length = g.shape[-2] - 1

    def step(g_next, matrix, g_here):
        return g_here + matmul_transposed(matrix, g_next), g_next

    spans = matrix, g[..., :-1, :], length
    last = g[..., -1, :]
    g_initial, g_noise = linear_scan(
        step, matmul_transposed, last, *spans, reverse=True
    )
    g_matrix = each_step(_path_matrix_cotangent, length, paths[..., :-1, :], g_noise)
    return g_initial, total(matrix, g_matrix), g_noise


def _path_matrix_cotangent(paths: Array, g: Array) -> Array:
    return matmul(g, transpose(paths))


sample_paths.defvjp(_paths_fwd, _paths_bwd)
