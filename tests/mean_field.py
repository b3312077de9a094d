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


def inverse(matrix):
    return np.linalg.solve(matrix, np.eye(len(matrix)))


@dataclass(eq=False)
class Vector:
    """A Gaussian vector; data have no covariance."""

    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def data(cls, value):
        return cls(np.asarray(value), np.zeros((len(value), len(value))))


@dataclass(eq=False)
class Known:
    """A noise that is known."""

    cov: np.ndarray

    @property
    def precision(self):
        return inverse(self.cov)

    @property
    def log_det(self):
        return np.linalg.slogdet(self.cov)[1]

    divergence = 0.0

    def learn(self, squares):
        pass


@dataclass(eq=False)
class Gammas:
    """Precisions ``Gamma(a, b)``, of which entries have one each, or all the same.

    :param where: which precision each entry has, one-hot, ``(dim, count)``.
    :param cov: the covariance where all of them are one.
    """

    a: np.ndarray
    b: np.ndarray
    where: np.ndarray
    cov: np.ndarray | None = None

    def __post_init__(self):
        self.prior = self.a, self.b
        self.cov = np.eye(len(self.where)) if self.cov is None else self.cov

    @property
    def precision(self):
        return (self.where @ (self.a / self.b))[:, None] * inverse(self.cov)

    @property
    def log_det(self):
        own = np.sum(self.where @ (np.log(self.b) - digamma(self.a)))
        return own + np.linalg.slogdet(self.cov)[1]

    @property
    def divergence(self):
        (a0, b0), a, b = self.prior, self.a, self.b
        normalizers = gammaln(a0) - gammaln(a) + a0 * (np.log(b) - np.log(b0))
        return np.sum((a - a0) * digamma(a) + normalizers + a * (b0 - b) / b)

    def learn(self, squares):
        a, b = self.prior
        total = np.diag(inverse(self.cov) @ sum(squares))
        self.a = a + 0.5 * len(squares) * self.where.sum(0)
        self.b = b + 0.5 * total @ self.where


@dataclass(eq=False)
class Wishart:
    """An inverse-Wishart covariance."""

    df: float
    scale: np.ndarray

    def __post_init__(self):
        self.prior = self.df, self.scale

    @property
    def precision(self):
        return self.df * inverse(self.scale)

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


@dataclass(eq=False)
class Factor:
    """``child ~ N(sum_i A_i parent_i + b, noise / weight)``."""

    child: Vector
    parents: list
    noise: object
    offset: np.ndarray | float = 0.0
    weight: float = 1.0

    @property
    def precision(self):
        return self.weight * self.noise.precision

    @property
    def log_det(self):
        return self.noise.log_det - len(self.child.mean) * log(self.weight)

    def mean(self, but=None):
        parts = [a @ x.mean for a, x in self.parents if x is not but]
        return sum(parts, np.zeros(len(self.child.mean)) + self.offset)

    def squares(self):
        left = self.child.mean - self.mean()
        spread = sum(a @ x.cov @ a.T for a, x in self.parents) + self.child.cov
        return np.outer(left, left) + spread


@dataclass(eq=False)
class Tree:
    """Vectors and noises to be learnt, and the factors that they are in."""

    vectors: list = field(default_factory=list)
    noises: list = field(default_factory=list)
    factors: list = field(default_factory=list)

    def vector(self, parents, noise, *others):
        """A new vector with a prior."""
        size = len(noise.precision)
        new = Vector(np.zeros(size), np.eye(size))
        self.vectors.append(new)
        self.factors.append(Factor(new, parents, noise, *others))
        return new

    def noise(self, noise):
        self.noises.append(noise)
        return noise

    def see(self, value, parents, noise):
        """A vector of data."""
        self.factors.append(Factor(Vector.data(value), parents, noise))

    def ascend(self, sweeps=300):
        """Coordinate ascent; the bound in the end."""
        for _ in range(sweeps):
            for x in self.vectors:
                info, precision = 0.0, 0.0
                for f in self.factors:
                    p = f.precision
                    if f.child is x:
                        info, precision = info + p @ f.mean(), precision + p
                    for a, y in f.parents:
                        if y is x:
                            info = info + a.T @ p @ (f.child.mean - f.mean(but=x))
                            precision = precision + a.T @ p @ a
                x.cov = inverse(precision)
                x.mean = x.cov @ info
            for noise in self.noises:
                own = [f for f in self.factors if f.noise is noise]
                noise.learn([f.weight * f.squares() for f in own])
        return self.bound()

    def bound(self):
        """The evidence lower bound."""
        total = 0.0
        for f in self.factors:
            dim = len(f.child.mean)
            square = np.trace(f.precision @ f.squares())
            total -= 0.5 * (dim * log(2 * pi) + f.log_det + square)
        for x in self.vectors:
            dim = len(x.mean)
            total += 0.5 * (dim * log(2 * pi * np.e) + np.linalg.slogdet(x.cov)[1])
        return total - sum(noise.divergence for noise in self.noises)
