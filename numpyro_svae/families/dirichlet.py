# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The Dirichlet family: every discrete factor is one of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import digamma
import numpy as np

from numpyro_svae.families.log_gammas import log_gammas
from numpyro_svae.families.natural import NaturalParameters

__all__ = ["DirichletNatural"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DirichletNatural(NaturalParameters):
    """Natural parameters of a Dirichlet; its statistic is :math:`\\log \\pi`.

    :param concentration: :math:`\\alpha`, of shape ``(..., K)``. A category of which it
        is zero has probability zero, and the others are a Dirichlet by themselves.
    """

    concentration: Array

    @property
    def _open(self) -> tuple[Array, Array]:
        """Which categories are possible, and concentrations that are safe elsewhere.

        What is below zero counts as possible, so that it shows as NaN.
        """
        possible = self.concentration != 0
        return possible, jnp.where(possible, self.concentration, 1.0)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jnp.shape(self.concentration)[:-1]

    def log_normalizer(self) -> Array:
        return _log_normalizers(self)[0]

    def expected_statistics(self) -> DirichletNatural:
        """The moments; zero for what is impossible, which is no part of the family."""
        return DirichletNatural(jnp.where(self._open[0], self.moments(), 0.0))

    def moments(self) -> Array:
        """:math:`E[\\log \\pi] = \\psi(\\alpha) - \\psi(\\sum \\alpha)`."""
        total = jnp.sum(self.concentration, -1, keepdims=True)
        possible, safe = self._open
        return jnp.where(possible, digamma(safe) - digamma(total), -inf)

    def witness(self) -> tuple[Array, ...]:
        """A digamma function is finite where a reciprocal is."""
        total = jnp.sum(self.concentration, -1)
        return total, 1 / total, 1 / self._open[1]

    def pull_back(self, cotangent: Array, moments: Array) -> DirichletNatural:
        return DirichletNatural(jnp.where(self._open[0], cotangent, 0.0))

    def kl(self, other: DirichletNatural) -> Array:
        difference = (self - other).inner(self.expected_statistics())
        own, theirs = _log_normalizers(self, other)
        return difference - own + theirs

    def largest_step(self, direction: DirichletNatural, enough: float = inf) -> Array:
        falls = (direction.concentration < 0) & self._open[0]
        slope = jnp.where(falls, -direction.concentration, 1.0)
        steps = jnp.where(falls, self.concentration / slope, jnp.inf)
        return jnp.min(steps, -1)

    def has_density(self) -> Array:
        return jnp.all(self.concentration >= 0, -1)

    def in_domain(self) -> bool:
        each = np.asarray(self.concentration)
        return bool(np.all(np.isfinite(each) & (each >= 0)) and np.all(each.max(-1)))


def _log_normalizers(*naturals: DirichletNatural) -> list[Array]:
    """:math:`A = \\sum \\log\\Gamma(\\alpha) - \\log\\Gamma(\\sum \\alpha)` of each."""
    totals = [jnp.sum(natural.concentration, -1) for natural in naturals]
    opens = [natural._open for natural in naturals]
    found = log_gammas(*(safe for _, safe in opens), *totals)
    each, of_totals = found[: len(naturals)], found[len(naturals) :]
    return [
        jnp.sum(jnp.where(possible, log_gamma, 0.0), -1) - of_total
        for (possible, _), log_gamma, of_total in zip(opens, each, of_totals)
    ]
