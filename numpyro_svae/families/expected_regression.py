# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A Gaussian factor at the expectations of what is learnt of it."""

from __future__ import annotations

from math import log, pi
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.families.matrices import transpose

__all__ = ["ExpectedRegression"]


class ExpectedRegression(NamedTuple):
    """:math:`E_q \\log N(v; F u, \\Sigma)` in centred form.

    It is a proper Gaussian ``N(v; weight u, covariance)`` times an information
    potential ``-1/2 u' excess u`` and a constant, with none of the cancellation that
    the plain moments :math:`E[F^T \\Sigma^{-1} F]` would bring in float32. Known
    :math:`(F, \\Sigma)` are the case ``excess = 0``.

    :param weight: :math:`E[\\Sigma^{-1}]^{-1} E[\\Sigma^{-1} F]`, ``(..., D, M)``.
    :param covariance: :math:`E[\\Sigma^{-1}]^{-1}`, of shape ``(..., D, D)``.
    :param excess: :math:`E[F^T \\Sigma^{-1} F]` less that of the weight, which is
        positive semi-definite, of shape ``(..., M, M)``.
    :param log_det: :math:`E \\log|\\Sigma|`, of shape ``(...)``.
    """

    weight: Array
    covariance: Array
    excess: Array
    log_det: Array

    def placed(self, known: Array, placement: Array) -> ExpectedRegression:
        """The regression ``N(v; (K + F S) w, Sigma)`` on another regressor w.

        :param known: K, of shape ``(..., D, P)``.
        :param placement: S, of shape ``(..., M, P)``.
        """
        return self._replace(
            weight=known + self.weight @ placement,
            excess=transpose(placement) @ self.excess @ placement,
        )

    def scaled(self, scale: Array, entries: Array | None = None) -> ExpectedRegression:
        """The regression ``N(v; F u, s Sigma)``.

        :param scale: s, of shape ``(...)``.
        :param entries: which entries of the response count, ``(..., D)``; None for all.
        """
        count = self.covariance.shape[-1] if entries is None else jnp.sum(entries, -1)
        by_matrix = scale[..., None, None]
        return ExpectedRegression(
            self.weight,
            by_matrix * self.covariance,
            self.excess / by_matrix,
            self.log_det + count * jnp.log(scale),
        )

    def together(self, entries: Array | None = None) -> ExpectedRegression:
        """One regression of a vector from those of its entries, the last batch axis.

        :param entries: which of them count, of shape ``(..., D)``; others add nothing
            if the value of the response is zero there.
        """
        weight, variance = self.weight[..., 0, :], self.covariance[..., 0, 0]
        excess, log_det = self.excess, self.log_det
        if entries is not None:
            weight = jnp.where(entries[..., None], weight, 0.0)
            variance = jnp.where(entries, variance, 1.0)
            excess = jnp.where(entries[..., None, None], excess, 0.0)
            log_det = jnp.where(entries, log_det, -log(2 * pi))
        return ExpectedRegression(
            weight,
            variance[..., None] * jnp.eye(variance.shape[-1], dtype=variance.dtype),
            jnp.sum(excess, -3),
            jnp.sum(log_det, -1),
        )
