# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Moments and samples of a Gaussian Markov chain, forwards, with adjoints backwards."""

from functools import partial

import jax
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
from numpyro_svae.blocks.linalg import matmul, matmul_transposed, symmetrize, transpose
from numpyro_svae.blocks.loops import Sequence, each_step, pad, time_inside

__all__ = ["marginals", "sample_paths"]


@partial(jax.jit, static_argnums=2)
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
        return predict(state, sequence.at(xs)), state

    state = start(initial, (steps.matrix, steps.cov), (steps.bias,))
    states = time_inside(lax.scan(step, state, sequence.xs, num_steps)[1])
    return states, (initial, steps, states)


def _marginals_bwd(num_steps, residuals, g):
    initial, steps, states = residuals
    g_moments = Gaussian(g.mean, symmetrize(g.cov))
    sequence = Sequence(num_steps, (steps.matrix, g_moments))

    def step(g_next, xs):
        matrix, g_here = sequence.at(xs)
        back = pull_back(matrix, g_next)
        return Gaussian(back.mean + g_here.mean, back.cov + g_here.cov), g_next

    g_initial, out = lax.scan(
        step, zero_cotangent(g), sequence.xs, num_steps, reverse=True
    )
    return (
        Gaussian(*map(total, initial, g_initial)),
        dynamics_cotangent(states, steps, time_inside(out)),
    )


_marginals.defvjp(_marginals_fwd, _marginals_bwd)


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
    g_matrix = each_step(_path_matrix_cotangent, length, paths[..., :-1, :], g_noise)
    return g_initial, total(matrix, g_matrix), g_noise


def _path_matrix_cotangent(paths: Array, g: Array) -> Array:
    return matmul(g, transpose(paths))


sample_paths.defvjp(_paths_fwd, _paths_bwd)
