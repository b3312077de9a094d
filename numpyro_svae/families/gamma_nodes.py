# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Quadrature over the logarithm of a Gamma, which may be truncated."""

from __future__ import annotations

from functools import cache
from math import inf, log
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families.gamma import GammaNatural

__all__ = ["GammaNodes", "gamma_nodes", "log_range"]

NODES = 600
_LOG_TAIL = 37.0  # exp(-37) is the rounding of float64


class GammaNodes(NamedTuple):
    """Nodes that stand for the logarithm of a Gamma; those of each are ``(N, ...)``.

    :param center: where the density of the logarithm is largest, ``(...)``.
    :param steps: from there to the nodes.
    :param weights: of the nodes, which add up to one.
    :param log_density: of the logarithm, at the nodes.
    :param log_mass: log of the integral of ``exp(a x - b exp(x))`` over the logarithm
        x, ``(...)``.
    """

    center: Array
    steps: Array
    weights: Array
    log_density: Array
    log_mass: Array

    @property
    def logs(self) -> Array:
        """The logarithms at the nodes."""
        return self.center + self.steps

    def mean(self, values: Array) -> Array:
        """The expectation of something at the nodes."""
        return jnp.sum(self.weights * values, 0)


@cache
def _unit(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The Gauss-Legendre rule of the interval from 0 to 1."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 * (points + 1.0), 0.5 * weights


def log_range(natural: GammaNatural) -> tuple[Array, Array, Array]:
    """Where the density of the logarithm is not zero to rounding.

    :return: where it is largest, and how far it goes to the left and to the right. In
        single precision it ends where the square of a value would overflow.
    """
    a, b = natural.concentration, natural.rate
    low, high = natural.log_bounds
    top = jnp.log(jnp.where(a > 0, a, 1.0)) - jnp.log(b)
    center = jnp.clip(jnp.where(a > 0, top, -inf), low, high)
    # the log density falls by c (exp(s) - 1 - s) - (a - c) s, of which no part is
    # negative: the slope is only there at a bound
    c = b * jnp.exp(center)
    slope = jnp.where((a > 0) & (center == top), 0.0, a - c)
    wide = jnp.sqrt(2 * _LOG_TAIL / c)
    left = wide + 3 * _LOG_TAIL / c  # densities may fall as fast as 1 / value
    largest = 0.45 * log(jnp.finfo(left.dtype).max)
    left = jnp.minimum(left, largest)
    right = jnp.minimum(wide, jnp.log1p(2 * _LOG_TAIL / c) + 1.0)
    right = jnp.minimum(right, largest)
    falls = [_LOG_TAIL / jnp.maximum(s, 1e-30) for s in (slope, -slope)]
    left = jnp.minimum(jnp.minimum(left, falls[0]), center - low)
    return center, left, jnp.minimum(jnp.minimum(right, falls[1]), high - center)


def gamma_nodes(natural: GammaNatural, count: int = NODES) -> GammaNodes:
    """Nodes for a Gamma, or for each of a batch.

    :param natural: the Gamma.
    :param count: N, the number of nodes.
    """
    a, b = natural.concentration, natural.rate
    center, left, right = log_range(natural)
    points, weights = (
        jnp.asarray(x, a.dtype).reshape(-1, *(1,) * jnp.ndim(a)) for x in _unit(count)
    )
    steps = points * (left + right) - left
    c = b * jnp.exp(center)
    logs = (a - c) * steps - c * (jnp.expm1(steps) - steps)
    terms = weights * jnp.exp(logs)
    total = jnp.sum(terms, 0)
    about = jnp.log(total) + jnp.log(left + right)
    mass = a * center - c + about
    return GammaNodes(center, steps, terms / total, logs - about, mass)
