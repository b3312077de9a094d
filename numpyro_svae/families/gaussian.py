# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The Gaussian family: means and weights whose prior is independent of the noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, pi
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families.matrices import (
    cho_solve,
    cholesky,
    has_cholesky,
    inverse_from_tril,
    log_diagonal,
    solve_tril,
    step_to_singular,
    symmetric,
    transpose,
)
from numpyro_svae.families.natural import NaturalParameters

__all__ = ["ExpectedGaussian", "GaussianNatural", "gaussian_kl"]


class ExpectedGaussian(NamedTuple):
    """Mean and covariance of a Gaussian vector.

    :param mean: of shape ``(..., N)``.
    :param covariance: of shape ``(..., N, N)``.
    """

    mean: Array
    covariance: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianNatural(NaturalParameters):
    """Natural parameters of a Gaussian vector.

    The statistics that they are paired with are :math:`(x, -\\tfrac12 x x^T)`. An
    observation :math:`v \\sim N(U x, R)` adds :math:`(U^T R^{-1} v, U^T R^{-1} U)`.

    :param info_vector: :math:`h = J \\mu`, of shape ``(..., N)``.
    :param precision: :math:`J`, of shape ``(..., N, N)``.
    """

    info_vector: Array
    precision: Array

    @classmethod
    def from_mean(cls, mean: Array, precision: Array) -> GaussianNatural:
        """Natural parameters from a mean ``(..., N)`` and a precision."""
        return cls(jnp.squeeze(precision @ mean[..., None], -1), precision)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jnp.shape(self.info_vector)[:-1]

    def _mean(self, tril: Array) -> Array:
        return cho_solve(tril, self.info_vector[..., None])[..., 0]

    def log_normalizer(self) -> Array:
        """:math:`A = h^T J^{-1} h / 2 - \\log|J| / 2 + N/2 \\log 2\\pi`."""
        tril = cholesky(self.precision)
        half = solve_tril(tril, self.info_vector[..., None])
        square = jnp.sum(half**2, (-1, -2))
        constant = self.info_vector.shape[-1] * log(2 * pi)
        return 0.5 * (square + constant) - log_diagonal(tril)

    def moments(self) -> ExpectedGaussian:
        """The mean and the covariance."""
        tril = cholesky(self.precision)
        return ExpectedGaussian(self._mean(tril), inverse_from_tril(tril))

    def expected_statistics(self) -> GaussianNatural:
        mean, covariance = self.moments()
        second = covariance + mean[..., None] * mean[..., None, :]
        return GaussianNatural(mean, -0.5 * second)

    def pull_back(
        self, cotangent: ExpectedGaussian, moments: ExpectedGaussian
    ) -> GaussianNatural:
        """Chain rule from the covariance :math:`E[x x^T] - E[x] E[x]^T`."""
        to_second = symmetric(cotangent.covariance)
        shift = 2 * jnp.squeeze(to_second @ moments.mean[..., None], -1)
        return GaussianNatural(cotangent.mean - shift, -2 * to_second)

    def kl(self, other: GaussianNatural) -> Array:
        q, p = (cholesky(n.precision) for n in (self, other))
        ratio = solve_tril(q, p)
        shift = self._mean(q) - other._mean(p)
        shift = jnp.squeeze(transpose(p) @ shift[..., None], -1)
        squares = jnp.sum(ratio**2, (-1, -2)) + jnp.sum(shift**2, -1)
        size = self.info_vector.shape[-1]
        return 0.5 * (squares - size) + log_diagonal(q) - log_diagonal(p)

    def largest_step(self, direction: GaussianNatural, enough: float = inf) -> Array:
        return step_to_singular(self.precision, direction.precision, enough)

    def has_density(self) -> Array:
        return jnp.ones(self.batch_shape, bool)

    def in_domain(self) -> bool:
        finite = np.all(np.isfinite(np.asarray(self.info_vector)))
        return bool(finite) and has_cholesky(self.precision)


@jax.custom_vjp
def gaussian_kl(natural: GaussianNatural, mean: Array, precision: Array) -> Array:
    """The divergence from a Gaussian that is given by its mean.

    It is :func:`~numpyro_svae.families.natural_kl` where the other Gaussian is learnt
    too. Its gradients in the mean and in the precision are made of residuals, and not
    of moments about zero, which cancel where means are large beside their spread.

    :param natural: natural parameters of the posterior.
    :param mean: of the prior, of shape ``(..., N)``.
    :param precision: of the prior, of shape ``(..., N, N)``.
    :return: of the batch shape of the posterior.
    """
    return natural.kl(GaussianNatural.from_mean(mean, precision))


def _kl_forward(natural: GaussianNatural, mean: Array, precision: Array) -> tuple:
    other = GaussianNatural.from_mean(mean, precision)
    return natural.kl(other), (natural, mean, precision)


def _kl_backward(residuals: tuple, cotangent: Array) -> tuple:
    natural, mean, precision = residuals
    own, covariance = natural.moments()
    shift = own - mean
    second = covariance + shift[..., None] * shift[..., None, :]
    second = second - inverse_from_tril(cholesky(precision))
    to_mean = -jnp.squeeze(precision @ shift[..., None], -1)
    return (
        (natural - GaussianNatural.from_mean(mean, precision)).scale(cotangent),
        cotangent[..., None] * to_mean,
        0.5 * cotangent[..., None, None] * second,
    )


gaussian_kl.defvjp(_kl_forward, _kl_backward)
