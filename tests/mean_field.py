# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Coordinate ascent for trees of Gaussian vectors with learnt noise, in numpy.

Written for clarity, to compare with: every vector and every noise is independent, a
factor is ``child ~ N(sum_i A_i parent_i + b, noise)``, and data are vectors that are
known.
"""

from dataclasses import dataclass, field
from math import log, pi

import numpy as np
from scipy.special import digamma, gammaln, multigammaln


@dataclass
class Vector:
    """A Gaussian vector; data have no covariance."""

    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def data(cls, value):
        return cls(np.asarray(value), np.zeros((len(value), len(value))))


@dataclass
class Known:
    """A noise that is known."""

    cov: np.ndarray

    @property
    def precision(self):
        return np.linalg.inv(self.cov)

    @property
    def log_det(self):
        return np.linalg.slogdet(self.cov)[1]

    divergence = 0.0

    def learn(self, squares):
        pass


@dataclass
class Gammas:
    """Precisions ``Gamma(a, b)`` of entries, or one for all of them."""

    a: float
    b: np.ndarray

    def __post_init__(self):
        self.prior = self.a * np.ones_like(self.b), 1.0 * self.b
        self.a = self.prior[0]
        self.dim = len(self.b)

    @property
    def precision(self):
        return np.diag(self.a / self.b)

    @property
    def log_det(self):
        return np.sum(np.log(self.b) - digamma(self.a))

    @property
    def divergence(self):
        (a0, b0), a, b = self.prior, self.a, self.b
        return np.sum(
            (a - a0) * digamma(a) - gammaln(a) + gammaln(a0)
            + a0 * (np.log(b) - np.log(b0)) + a * (b0 - b) / b
        )  # fmt: skip

    def learn(self, squares):
        total = sum(np.diag(s) for s in squares)
        a0, b0 = self.prior
        self.a, self.b = a0 + 0.5 * len(squares), b0 + 0.5 * total


@dataclass
class OneGamma(Gammas):
    """One precision for vectors of some dimension."""

    size: int = 1

    @property
    def precision(self):
        return np.eye(self.size) * self.a / self.b

    @property
    def log_det(self):
        return self.size * np.sum(np.log(self.b) - digamma(self.a))

    def learn(self, squares):
        a0, b0 = self.prior
        self.a = a0 + 0.5 * self.size * len(squares)
        self.b = b0 + 0.5 * sum(np.trace(s) for s in squares)


@dataclass
class Wishart:
    """An inverse-Wishart covariance."""

    df: float
    scale: np.ndarray

    def __post_init__(self):
        self.prior = self.df, self.scale

    @property
    def precision(self):
        return self.df * np.linalg.inv(self.scale)

    @property
    def log_det(self):
        dim = len(self.scale)
        gammas = digamma(0.5 * (self.df - np.arange(dim))).sum()
        return np.linalg.slogdet(self.scale)[1] - dim * log(2) - gammas

    @property
    def divergence(self):
        def expected(df, scale):
            dim = len(scale)
            return (
                0.5 * df * (np.linalg.slogdet(scale)[1] - dim * log(2))
                - multigammaln(0.5 * df, dim)
                - 0.5 * (df + dim + 1) * self.log_det
                - 0.5 * np.trace(scale @ self.precision)
            )

        return expected(self.df, self.scale) - expected(*self.prior)

    def learn(self, squares):
        df, scale = self.prior
        self.df, self.scale = df + len(squares), scale + sum(squares)


@dataclass
class Factor:
    """``child ~ N(sum_i A_i parent_i + b, noise)``."""

    child: Vector
    parents: list
    noise: object
    offset: np.ndarray | float = 0.0

    def mean(self, but=None):
        parts = [a @ x.mean for a, x in self.parents if x is not but]
        return sum(parts, np.zeros(len(self.child.mean)) + self.offset)

    def squares(self):
        left = self.child.mean - self.mean()
        spread = sum(a @ x.cov @ a.T for a, x in self.parents) + self.child.cov
        return np.outer(left, left) + spread


@dataclass
class Tree:
    """Vectors and noises to be learnt, and the factors that they are in."""

    vectors: list = field(default_factory=list)
    noises: list = field(default_factory=list)
    factors: list = field(default_factory=list)

    def vector(self, parents, noise, offset=0.0):
        """A new vector with a prior."""
        size = len(noise.precision)
        new = Vector(np.zeros(size), np.eye(size))
        self.vectors.append(new)
        self.factors.append(Factor(new, parents, noise, offset))
        return new

    def noise(self, noise):
        self.noises.append(noise)
        return noise

    def see(self, value, parents, noise, offset=0.0):
        self.factors.append(Factor(Vector.data(value), parents, noise, offset))

    def ascend(self, sweeps=300):
        """Coordinate ascent; the bound in the end."""
        for _ in range(sweeps):
            for x in self.vectors:
                info, precision = 0.0, 0.0
                for f in self.factors:
                    p = f.noise.precision
                    if f.child is x:
                        info, precision = info + p @ f.mean(), precision + p
                    for a, y in f.parents:
                        if y is x:
                            info = info + a.T @ p @ (f.child.mean - f.mean(but=x))
                            precision = precision + a.T @ p @ a
                x.cov = np.linalg.inv(precision)
                x.mean = x.cov @ info
            for noise in self.noises:
                own = [f.squares() for f in self.factors if f.noise is noise]
                noise.learn(own)
        return self.bound()

    def bound(self):
        """The evidence lower bound."""
        total = 0.0
        for f in self.factors:
            dim = len(f.child.mean)
            square = np.trace(f.noise.precision @ f.squares())
            total -= 0.5 * (dim * log(2 * pi) + f.noise.log_det + square)
        for x in self.vectors:
            dim = len(x.mean)
            total += 0.5 * (dim * log(2 * pi * np.e) + np.linalg.slogdet(x.cov)[1])
        return total - sum(noise.divergence for noise in self.noises)
