# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior of a filtered Gaussian chain, as conditionals backwards in time.

**Reference:** S. Särkkä and L. Svensson, *Bayesian Filtering and Smoothing*, 2nd ed.
(2023), chapter 12.
"""

from jax import Array, custom_vjp

from numpyro_svae.blocks import elimination, linalg
from numpyro_svae.blocks.chain_steps import (
    Dynamics,
    Gaussian,
    total,
)
from numpyro_svae.blocks.linalg import (
    matmul,
    matmul_transposed,
    matvec,
    outer,
    square,
    symmetrize,
    transpose,
)
from numpyro_svae.blocks.loops import each_step
from numpyro_svae.blocks.terms import Terms, collect
from numpyro_svae.derivatives import define_vjp

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
    return _reverse(filtered, dynamics)


def _reverse_step(filtered: Gaussian, step: Dynamics) -> Dynamics:
    mean, cov = filtered
    matrix, bias, noise = step
    cross = matmul(matrix, cov)
    predicted = symmetrize(matmul(cross, transpose(matrix)) + noise)
    back, _ = elimination.solve_posdef(predicted, cross)  # G'
    rest = linalg.eye(cov) - matmul_transposed(matrix, back)  # (I - G A)'
    gain = transpose(back)
    return Dynamics(
        gain,
        mean - matvec(gain, matvec(matrix, mean) + bias),
        symmetrize(square(rest, cov) + square(back, noise)),
    )


def _mean_cotangent(
    filtered: Gaussian, step: Dynamics, reverse: Dynamics, g_bias: Array
) -> tuple[Terms, Array, Array]:
    """Terms of the cotangents of ``m``, ``A``, ``b`` and ``G'`` through ``c``."""
    predicted = matvec(step.matrix, filtered.mean) + step.bias
    g_predicted = -matvec(transpose(reverse.matrix), g_bias)
    return (
        collect(g_bias, matvec(transpose(step.matrix), g_predicted)),
        g_predicted,
        -outer(predicted, g_bias),
    )


def _cov_cotangent(
    cov: Array, step: Dynamics, reverse: Dynamics, g: Dynamics, through_mean: Array
) -> tuple[Terms, ...]:
    """Terms of the cotangents of ``P``, ``A`` and ``Q``.

    ``g`` are the cotangents of the conditionals, ``through_mean`` that of ``G'`` which
    comes through ``c``.

    ``dV = B dP B' + G dQ G' - G dA V - V dA' G'`` with ``B = I - G A``, as ``V`` is
    stationary in ``G``, and ``dG = (B dP A' + V dA' - G dQ) S^-1 - G dA G`` with
    ``S = A P A' + Q``.
    """
    matrix, _, noise = step
    back, g_cov = transpose(reverse.matrix), symmetrize(g.cov)
    g_back = transpose(g.matrix) + through_mean
    predicted = symmetrize(square(transpose(matrix), cov) + noise)
    y, _ = elimination.solve_posdef(predicted, g_back)
    rest = linalg.eye(cov) - matmul_transposed(matrix, back)
    weighted = matmul(back, g_cov)
    inner = matmul_transposed(y, matrix) + matmul(g_cov, transpose(rest))
    through_gain = matmul(matmul(back, transpose(g_back)), back)
    return (
        collect(symmetrize(matmul(rest, inner))),
        collect(matmul(y - 2 * weighted, reverse.cov), -through_gain),
        collect(symmetrize(matmul(back, transpose(weighted - y)))),
    )


@custom_vjp
def _reverse(filtered: Gaussian, dynamics: Dynamics) -> Dynamics:
    return _reverse_fwd(filtered, dynamics)[0]


def _reverse_fwd(filtered, dynamics):
    length = filtered.mean.shape[-2]
    reverse = each_step(_reverse_step, length, filtered, dynamics)
    return reverse, (filtered, dynamics, reverse)


def _reverse_bwd(residuals, g):
    """Means first, as the cotangents of covariances, which lanes may share, need them.

    Only sums between the loops cross the lanes.
    """
    filtered, dynamics, reverse = residuals
    length = filtered.mean.shape[-2]
    mean, g_predicted, through_back = each_step(
        _mean_cotangent, length, filtered, dynamics, reverse, g.bias
    )
    through_mean = total(transpose(reverse.matrix), through_back)
    cov, through_cov, noise = each_step(
        _cov_cotangent, length, filtered.cov, dynamics, reverse, g, through_mean
    )
    return (
        Gaussian(total(filtered.mean, *mean), total(filtered.cov, *cov)),
        Dynamics(
            total(dynamics.matrix, outer(g_predicted, filtered.mean), *through_cov),
            total(dynamics.bias, g_predicted),
            total(dynamics.cov, *noise),
        ),
    )


define_vjp(_reverse, _reverse_fwd, _reverse_bwd)
