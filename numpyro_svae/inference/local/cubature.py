# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Points and weights that stand for a standard normal distribution.

An expectation ``E[f(x)]`` under ``N(m, L L')`` is the weighted sum of f at
``m + L e`` for the points e.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, Protocol

import numpy as np

from numpyro_svae.program.bind.predictors import Average

__all__ = ["Cubature", "Rule"]

_LARGEST = 4  # dimension of the vectors of which products of points are used
_BUDGET = 81  # points of a product by default
_MOST = 20  # points along an axis by default


class Rule(Average, Protocol):
    """How expectations under a Gaussian vector are taken."""

    def is_product(self, dim: int) -> bool:
        """Whether the points stand for an expectation in a bound."""


@dataclass(frozen=True)
class Cubature:
    """How log likelihoods that are not conjugate are averaged over a latent vector.

    All rules are exact for log likelihoods that are quadratic in the vector, and have
    the same points in every step and at every datum.

    :param rule: ``"hermite"``, products of Gauss-Hermite points, exact for
        polynomials of degree ``2 num_points - 1`` along each axis: the bound then has
        this expectation in the place of one at a sample. ``"spherical"``, the
        ``2 D`` points at distance ``sqrt(D)`` on the axes, exact for polynomials of
        degree three in all: messages are made with it, and the bound is evaluated at
        samples, as beside a network. ``"simplex"``, likewise with ``D + 1`` points, the
        corners of a regular simplex: half of the work, exact to degree two. By default
        the first one up to four dimensions, and then the second.
    :param num_points: of a product, how many there are along each axis; by default as
        many as make no more than 81 in all, and at most 20.

    **Source:** I. Arasaratnam and S. Haykin, *Cubature Kalman filters*, IEEE
    Transactions on Automatic Control 54, 2009, has both rules.
    """

    rule: Literal["hermite", "spherical", "simplex"] | None = None
    num_points: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in (None, "hermite", "spherical", "simplex"):
            raise ValueError(
                f"rule: found {self.rule!r}; accepted are 'hermite', 'spherical', "
                "'simplex', or None for a choice by dimension."
            )
        if self.num_points is not None and self.num_points < 2:
            raise ValueError(
                f"num_points: found {self.num_points}; accepted are two or more points "
                "along an axis: one is not exact for quadratics."
            )

    def is_product(self, dim: int) -> bool:
        """Whether vectors of a dimension have products of Gauss-Hermite points."""
        if self.rule is None:
            return dim <= _LARGEST
        return self.rule == "hermite"

    def points(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """The points ``(S, D)``, and weights ``(S,)`` that add up to one."""
        if self.rule == "simplex":
            return _corners(dim), np.full(dim + 1, 1 / (dim + 1))
        if not self.is_product(dim):
            axes = np.sqrt(dim) * np.eye(dim)
            return np.concatenate([axes, -axes]), np.full(2 * dim, 0.5 / dim)
        count = self.num_points
        if count is None:
            count = max(2, min(_MOST, int(_BUDGET ** (1 / dim) + 1e-9)))
        return _hermite(dim, count)


def _corners(dim: int) -> np.ndarray:
    """Those of a regular simplex about the origin, ``(D + 1, D)``: Helmert's matrix."""
    ones = np.arange(1, dim + 1)
    rows = np.tri(dim, dim + 1) - np.diag(ones, 1)[:dim]
    return (np.sqrt((dim + 1) / (ones * (ones + 1)))[:, None] * rows).T


@cache
def _hermite(dim: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / np.sum(weights)
    points = np.array(list(product(nodes, repeat=dim)))
    return points, np.prod(list(product(weights, repeat=dim)), -1)
