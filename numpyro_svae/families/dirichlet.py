# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The Dirichlet family: every discrete factor is one of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from numpyro_svae.families.natural import NaturalParameters

__all__ = ["DirichletNatural"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DirichletNatural(NaturalParameters):
    """Natural parameters of a Dirichlet; its statistic is :math:`\\log \\pi`.

    :param concentration: :math:`\\alpha`, of shape ``(..., K)``.
    """

    concentration: Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jnp.shape(self.concentration)[:-1]

    def log_normalizer(self) -> Array:
        total = jnp.sum(self.concentration, -1)
        return jnp.sum(gammaln(self.concentration), -1) - gammaln(total)

    def expected_statistics(self) -> DirichletNatural:
        return DirichletNatural(self.moments())

    def moments(self) -> Array:
        """:math:`E[\\log \\pi] = \\psi(\\alpha) - \\psi(\\sum \\alpha)`."""
        total = jnp.sum(self.concentration, -1, keepdims=True)
        return digamma(self.concentration) - digamma(total)

    def pull_back(self, cotangent: Array) -> DirichletNatural:
        return DirichletNatural(cotangent)

    def kl(self, other: DirichletNatural) -> Array:
        difference = (self - other).inner(self.expected_statistics())
        return difference - self.log_normalizer() + other.log_normalizer()

    def largest_step(self, direction: DirichletNatural, enough: float = inf) -> Array:
        falls = direction.concentration < 0
        slope = jnp.where(falls, -direction.concentration, 1.0)
        steps = jnp.where(falls, self.concentration / slope, jnp.inf)
        return jnp.min(steps, -1)
