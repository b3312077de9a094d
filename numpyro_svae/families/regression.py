# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The matrix-normal-inverse-Wishart family: Bayesian linear regression.

Every Gaussian factor is a regression :math:`N(v; F u, \\Sigma)`. Its conjugate prior
over :math:`F` (D x M) and :math:`\\Sigma` (D x D) has the density

.. math::
    p(F, \\Sigma) \\propto |\\Sigma|^{-(\\nu + D + 1 + M)/2}
    \\exp(-\\tfrac12 tr \\Sigma^{-1} [\\Psi + (F - M_0) K (F - M_0)^T])

A normal-inverse-Wishart is the case M = 1 with :math:`u = 1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, pi
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import digamma
import numpy as np

from numpyro_svae.families.compensated import residual
from numpyro_svae.families.expected_regression import ExpectedRegression
from numpyro_svae.families.log_gammas import log_gammas
from numpyro_svae.families.matrices import (
    cho_solve,
    cholesky,
    has_cholesky,
    inverse_from_tril,
    log_diagonal,
    solve_tril,
    step_to_singular,
    step_to_zero,
    symmetric,
    transpose,
)
from numpyro_svae.families.natural import NaturalParameters

__all__ = ["RegressionNatural", "RegressionStandard"]


class RegressionStandard(NamedTuple):
    """Standard parameters, matrices by their Cholesky factors.

    :param loc: :math:`M_0`, of shape ``(..., D, M)``.
    :param column_tril: Cholesky factor of :math:`K`, of shape ``(..., M, M)``.
    :param scale_tril: Cholesky factor of :math:`\\Psi`, of shape ``(..., D, D)``.
    :param df: :math:`\\nu`, of shape ``(...)``.
    """

    loc: Array
    column_tril: Array
    scale_tril: Array
    df: Array

    def natural(self) -> RegressionNatural:
        """The natural parameters."""
        columns = self.column_tril @ transpose(self.column_tril)
        parts = self.loc, columns, self.scale_tril, self.df
        return RegressionNatural.from_standard(*parts)

    def log_normalizer(self) -> Array:
        """:math:`A`, of shape ``(...)``."""
        return _log_normalizers(self)[0]

    @property
    def halves(self) -> Array:
        """:math:`(\\nu + 1 - i)/2`, of shape ``(..., D)``."""
        dim = self.loc.shape[-2]
        return 0.5 * (self.df[..., None] - jnp.arange(dim, dtype=self.df.dtype))

    def expected_log_det(self) -> Array:
        """:math:`E \\log|\\Sigma| = \\log|\\Psi| - D \\log 2
        - \\sum_i \\psi((\\nu + 1 - i)/2)`."""
        dim = self.loc.shape[-2]
        log_det = 2 * log_diagonal(self.scale_tril)
        return log_det - dim * log(2) - jnp.sum(digamma(self.halves), -1)


def _log_normalizers(*standards: RegressionStandard) -> list[Array]:
    """:math:`A = -D/2 \\log|K| + \\nu D/2 \\log 2 + \\log\\Gamma_D(\\nu/2)
    - \\nu/2 \\log|\\Psi| + DM/2 \\log 2\\pi` of each."""
    dim, num_columns = standards[0].loc.shape[-2:]
    constant = 0.5 * dim * num_columns * log(2 * pi) + 0.25 * dim * (dim - 1) * log(pi)
    return [
        constant
        - dim * log_diagonal(standard.column_tril)
        + standard.df * (0.5 * dim * log(2) - log_diagonal(standard.scale_tril))
        + jnp.sum(log_gamma, -1)
        for standard, log_gamma in zip(
            standards, log_gammas(*(standard.halves for standard in standards))
        )
    ]


@jax.jit
def _standard(vv: Array, vu: Array, uu: Array) -> tuple[Array, Array, Array]:
    """Location, and the Cholesky factors of ``K`` and ``Psi``."""
    tril, cross = cholesky(uu), transpose(vu)
    loc = cho_solve(tril, cross)
    loc = loc + cho_solve(tril, residual(cross, uu, loc))
    left = residual(cross, uu, loc)
    half = solve_tril(tril, left)
    scale = residual(vv, transpose(loc), cross) - transpose(left) @ loc
    scale = symmetric(scale - transpose(half) @ half)
    loc = loc + solve_tril(tril, half, trans=True)
    return transpose(loc), tril, cholesky(scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RegressionNatural(NaturalParameters):
    """Natural parameters of a matrix-normal-inverse-Wishart.

    The statistics that they are paired with are :math:`(-\\tfrac12 \\Sigma^{-1},
    \\Sigma^{-1} F, -\\tfrac12 F^T \\Sigma^{-1} F, -\\tfrac12 \\log|\\Sigma|)`; one
    observation adds :math:`(v v^T, v u^T, u u^T, 1)`.

    :param vv: :math:`\\Psi + M_0 K M_0^T`, of shape ``(..., D, D)``.
    :param vu: :math:`M_0 K`, of shape ``(..., D, M)``.
    :param uu: :math:`K`, of shape ``(..., M, M)``.
    :param df: :math:`\\nu`, of shape ``(...)``.
    """

    vv: Array
    vu: Array
    uu: Array
    df: Array

    @classmethod
    def from_standard(
        cls, loc: Array, column_precision: Array, scale_tril: Array, df: Array
    ) -> RegressionNatural:
        """Natural from standard parameters (see :class:`RegressionStandard`)."""
        vu = loc @ column_precision
        vv = scale_tril @ transpose(scale_tril) + symmetric(vu @ transpose(loc))
        batch = jnp.broadcast_shapes(vv.shape[:-2], vu.shape[:-2], jnp.shape(df))
        return cls(
            jnp.broadcast_to(vv, batch + vv.shape[-2:]),
            jnp.broadcast_to(vu, batch + vu.shape[-2:]),
            jnp.broadcast_to(column_precision, batch + column_precision.shape[-2:]),
            jnp.broadcast_to(df, batch),
        )

    @classmethod
    def observe(
        cls, v: Array, u: Array, weight: Array | float = 1.0
    ) -> RegressionNatural:
        """Statistics of observations, one for each entry of the batch.

        :param v: responses, of shape ``(..., D)``.
        :param u: regressors, of shape ``(..., M)``.
        :param weight: number of times each was seen, of shape ``(...)``.
        """
        batch = jnp.broadcast_shapes(v.shape[:-1], u.shape[:-1], jnp.shape(weight))
        count = jnp.broadcast_to(jnp.asarray(weight, v.dtype), batch)
        v, u = (jnp.broadcast_to(a, batch + a.shape[-1:]) for a in (v, u))
        wv, wu = count[..., None] * v, count[..., None] * u
        return cls(
            wv[..., None] * v[..., None, :],
            wv[..., None] * u[..., None, :],
            wu[..., None] * u[..., None, :],
            count,
        )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jnp.shape(self.df)

    def joint(self) -> Array:
        """The matrix ``[[uu, vu'], [vu, vv]]``, positive definite in the domain."""
        top = jnp.concatenate([self.uu, transpose(self.vu)], -1)
        return jnp.concatenate([top, jnp.concatenate([self.vu, self.vv], -1)], -2)

    def to_standard(self) -> RegressionStandard:
        """Standard parameters, with the digits that natural ones of any condition have.

        A location is improved by its residual, and ``Psi = vv - M_0 vu'`` is what a sum
        in twice the precision leaves of it.
        """
        loc, column_tril, scale_tril = _standard(self.vv, self.vu, self.uu)
        return RegressionStandard(loc, column_tril, scale_tril, self.df)

    def log_normalizer(self) -> Array:
        return self.to_standard().log_normalizer()

    def moments(self) -> ExpectedRegression:
        """Centred moments: ``M_0``, ``Psi / nu``, ``D K^-1`` and ``E log|Sigma|``."""
        standard = self.to_standard()
        df = self.df[..., None, None]
        tril = standard.scale_tril
        dim = tril.shape[-1]
        return ExpectedRegression(
            standard.loc,
            tril @ transpose(tril) / df,
            dim * inverse_from_tril(standard.column_tril),
            standard.expected_log_det(),
        )

    def expected_statistics(self) -> RegressionNatural:
        weight, _, excess, log_det = self.moments()
        df = self.df[..., None, None]
        precision = df * inverse_from_tril(self.to_standard().scale_tril)
        cross = precision @ weight
        quadratic = symmetric(transpose(weight) @ cross) + excess
        return RegressionNatural(
            -0.5 * precision, cross, -0.5 * quadratic, -0.5 * log_det
        )

    def witness(self) -> tuple[Array, ...]:
        """The moments as far as it takes to know whether they are finite.

        A matrix is where its diagonal is, and a digamma function where a reciprocal is.
        """
        standard = self.to_standard()
        columns, scale = standard.column_tril, standard.scale_tril
        identity = jnp.broadcast_to(
            jnp.eye(columns.shape[-1], dtype=columns.dtype), columns.shape
        )
        return (
            standard.loc,
            jnp.sum(scale**2, -1) / self.df[..., None],
            scale.shape[-1] * jnp.sum(solve_tril(columns, identity) ** 2, -2),
            log_diagonal(scale),
            1 / standard.halves,
        )

    def pull_back(
        self, cotangent: ExpectedRegression, moments: ExpectedRegression
    ) -> RegressionNatural:
        """Chain rule from centred moments to the plain ones.

        With P, G, C the expectations of :math:`\\Sigma^{-1}, \\Sigma^{-1} F,
        F^T \\Sigma^{-1} F`: weight = P^-1 G, covariance = P^-1 and
        excess = C - G' P^-1 G.
        """
        weight, covariance, _, _ = moments
        to_excess = symmetric(cotangent.excess)
        to_weight = covariance @ cotangent.weight
        to_cross = to_weight - 2 * weight @ to_excess
        to_precision = symmetric(
            weight @ to_excess @ transpose(weight)
            - to_weight @ transpose(weight)
            - covariance @ cotangent.covariance @ covariance
        )
        return RegressionNatural(
            -2 * to_precision, to_cross, -2 * to_excess, -2 * cotangent.log_det
        )

    def kl(self, other: RegressionNatural) -> Array:
        q, p = self.to_standard(), other.to_standard()
        dim, num_columns = q.loc.shape[-2:]
        whitened_scale = solve_tril(q.scale_tril, p.scale_tril)
        shift = (q.loc - p.loc) @ p.column_tril
        whitened_shift = solve_tril(q.scale_tril, shift)
        columns = solve_tril(q.column_tril, p.column_tril)

        def squares(x: Array) -> Array:
            return jnp.sum(x * x, (-1, -2))

        quadratic = q.df * (squares(whitened_scale) + squares(whitened_shift) - dim)
        own, theirs = _log_normalizers(q, p)
        return (
            theirs
            - own
            + 0.5 * (quadratic + dim * (squares(columns) - num_columns))
            + 0.5 * (p.df - q.df) * q.expected_log_det()
        )

    def largest_step(self, direction: RegressionNatural, enough: float = inf) -> Array:
        to_singular = step_to_singular(self.joint(), direction.joint(), enough)
        slack = self.df - (self.vv.shape[-1] - 1)
        return jnp.minimum(to_singular, step_to_zero(slack, direction.df))

    def has_density(self) -> Array:
        return self.df > self.vv.shape[-1] - 1

    def in_domain(self) -> bool:
        leaves = self.vv, self.vu, self.uu
        vv, vu, uu = (np.asarray(leaf, np.float64) for leaf in leaves)
        joint = np.block([[uu, np.swapaxes(vu, -1, -2)], [vu, vv]])
        enough = np.asarray(self.df) > vv.shape[-1] - 1
        return bool(np.all(enough)) and has_cholesky(joint)
