# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior of a filtered Gaussian chain, as conditionals backwards in time.

**Reference:** S. Särkkä and L. Svensson, *Bayesian Filtering and Smoothing*, 2nd ed.
(2023), chapter 12.
"""

from jax import Array, custom_vjp

from numpyro_svae.blocks import elimination, linalg
from numpyro_svae.blocks.chain_steps import Dynamics, Gaussian, square, total
from numpyro_svae.blocks.linalg import (
    matmul,
    matmul_transposed,
    matvec,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import each_step

__all__ = ["reverse_conditionals"]


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
    predicted = symmetrize(square(back, cov) + noise)
    gain, _ = elimination.solve_posdef(predicted, matmul(matrix, cov))  # G'
    rest = linalg.eye(cov) - matmul(back, gain)  # (I - G A)'
    reverse_cov = symmetrize(square(rest, cov) + square(gain, noise))
    out = transpose(gain), reverse_cov
    return out, (matrix, cov, noise, predicted, gain, rest, reverse_cov)


def _reverse_bwd(residuals, g):
    matrix, cov, noise, predicted, gain, rest, reverse_cov = residuals
    g_gain, g_cov = transpose(g[0]), symmetrize(g[1])
    y, _ = elimination.solve_posdef(predicted, g_gain)
    weighted = matmul(gain, g_cov)
    through = matmul(y - 2 * weighted, reverse_cov)
    return (
        total(
            cov,
            symmetrize(matmul(rest, matmul_transposed(y, matrix))),
            square(transpose(rest), g_cov),
        ),
        total(matrix, through, -matmul(matmul(gain, transpose(g_gain)), gain)),
        total(
            noise,
            -symmetrize(matmul(gain, transpose(y))),
            matmul(weighted, transpose(gain)),
        ),
    )


_reverse.defvjp(_reverse_fwd, _reverse_bwd)
