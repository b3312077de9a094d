# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One Gaussian conditioned on one Gaussian potential, for many lanes at once.

With ``psi(x) = h' x - x' J x / 2`` the posterior of ``x ~ N(m, P)`` has

    W   = (I + P J)^-1,     P_f = W P,      e_0 = h - J m,
    m_f = m + P_f e_0,      e   = W' e_0    (which is h - J m_f),
    log Z = (h' m + e_0' m_f - log det(I + P J)) / 2.

``P`` and ``J`` may be singular; a zero potential changes nothing, exactly. A diagonal
``J`` is taken one entry after the other, as in a sequential update (Bierman,
*Factorization methods for discrete sequential estimation*, 1977, chapter 2), with no
difference where one would cancel. A full ``J = U U'`` with ``h = U w + rest``, or a
large one, needs one factorisation, of

    S = I + U' P U,     G = P U S^-1,   W = I - G U',   P_f = W P W' + G G',
    e = U S^-1 (w - U' m) + W' rest,    m_f = m + G (w - U' m) + P_f rest,

whose eigenvalues are at least one; the covariance is a sum of two squares, which stays
positive whatever the precisions.
"""

from functools import partial
from typing import NamedTuple

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.blocks import elimination, linalg
from numpyro_svae.blocks.chain_steps import Gaussian
from numpyro_svae.blocks.linalg import (
    MAX_UNROLLED,
    dot,
    matmul,
    matmul_transposed,
    matvec,
    outer,
    square,
    symmetrize,
    transpose,
)

__all__ = ["Diagonal", "Full", "Potential", "Pull", "factor"]


_at = partial(lax.dynamic_index_in_dim, keepdims=False)
_put = lax.dynamic_update_index_in_dim


class Pull(NamedTuple):
    """How a potential pulls on its prior: ``W``, ``e`` and ``J W``."""

    weight: Array
    score: Array
    information: Array


def _one_by_one(J: Array, table: Array) -> tuple[Array, Array]:
    """``W`` times ``[P, ...]`` and ``log det(I + P J)`` for a diagonal ``J``.

    Entry ``i`` subtracts ``P_i (J_i / s) P_i'`` from ``P``, with ``s = 1 + J_i P_ii``.
    Row and column ``i`` are divided by ``s`` instead, which is the same and does not
    cancel.

    :param J: ``(D, *lanes)``.
    :param table: ``P`` and what else to multiply, ``(D, D + K, *lanes)``.
    """
    size = J.shape[0]

    def entry(i, state):
        table, log_det = state
        row, column, precision = _at(table, i, 0), _at(table, i, 1), _at(J, i, 0)
        spread = 1.0 + precision * _at(row, i, 0)
        inverse = 1.0 / spread
        others = table - outer(column, row * (precision * inverse))
        others = _put(others, row * inverse, i, 0)
        return _put(others, column * inverse, i, 1), log_det + jnp.log(spread)

    state = table, jnp.zeros(table.shape[2:], table.dtype)
    return lax.fori_loop(0, size, entry, state, unroll=True)


class Diagonal(NamedTuple):
    """A potential with diagonal ``J``: ``h`` and ``J`` are ``(D, *lanes)``."""

    h: Array
    J: Array

    def condition(self, mean: Array, cov: Array) -> tuple[Gaussian, Array]:
        """The posterior and ``log Z``."""
        cov, log_det = _one_by_one(self.J, cov)
        cov, pull = symmetrize(cov), self.h - self.J * mean
        posterior = Gaussian(mean + matvec(cov, pull), cov)
        terms = dot(self.h, mean) + dot(pull, posterior.mean)
        return posterior, 0.5 * (terms - log_det)

    def pull(self, mean: Array, cov: Array) -> Pull:
        """``W``, ``e`` and ``J W``."""
        identity = jnp.broadcast_to(linalg.eye(cov), cov.shape)
        table, _ = _one_by_one(self.J, jnp.concatenate([cov, identity], 1))
        weight = table[:, cov.shape[0] :]
        score = matvec(transpose(weight), self.h - self.J * mean)
        return Pull(weight, score, symmetrize(self.J[:, None] * weight))


class Full(NamedTuple):
    """A potential with ``J = U U'`` and ``h = U w + rest``.

    ``U`` is ``(D, D, *lanes)``, or ``(D, *lanes)`` where it is diagonal.
    """

    h: Array
    root: Array
    white: Array
    rest: Array

    def condition(self, mean: Array, cov: Array) -> tuple[Gaussian, Array]:
        """The posterior and ``log Z``."""
        spread, cross = self._spread(cov)
        gain, log_det = elimination.solve_posdef(spread, cross)  # G'
        weight, residual = self._weight(gain), self._residual(mean)
        squares = square(weight, cov) + matmul_transposed(gain, gain)
        cov = symmetrize(squares)
        shift = matvec(transpose(gain), residual) + matvec(cov, self.rest)
        posterior = Gaussian(mean + shift, cov)
        pull = self._left(residual[:, None])[:, 0] + self.rest
        terms = dot(self.h, mean) + dot(pull, posterior.mean)
        return posterior, 0.5 * (terms - log_det)

    def pull(self, mean: Array, cov: Array) -> Pull:
        """``W``, ``e`` and ``J W``."""
        spread, cross = self._spread(cov)
        identity = jnp.broadcast_to(linalg.eye(spread), spread.shape)
        inverse, _ = elimination.solve_posdef(spread, identity)
        half = self._left(inverse)  # U S^-1
        weight = self._weight(matmul(inverse, cross))
        score = matvec(half, self._residual(mean)) + matvec(weight, self.rest)
        return Pull(transpose(weight), score, self._left(transpose(half)))

    @property
    def _is_diagonal(self) -> bool:
        return self.root.ndim == self.h.ndim

    def _left(self, x: Array) -> Array:
        """``U x``."""
        return self.root[:, None] * x if self._is_diagonal else matmul(self.root, x)

    def _left_transposed(self, x: Array) -> Array:
        """``U' x``."""
        return self._left(x) if self._is_diagonal else matmul_transposed(self.root, x)

    def _residual(self, mean: Array) -> Array:
        """``w - U' m``."""
        return self.white - self._left_transposed(mean[:, None])[:, 0]

    def _spread(self, cov: Array) -> tuple[Array, Array]:
        """``S`` and ``U' P``."""
        cross = self._left_transposed(cov)
        spread = cross * self.root if self._is_diagonal else matmul(cross, self.root)
        return linalg.eye(cov) + spread, cross

    def _weight(self, gain: Array) -> Array:
        """``W'`` from ``G'``."""
        return linalg.eye(gain) - self._left(gain)


Potential = Diagonal | Full


def factor(h: Array, J: Array) -> Potential:
    """Of ``h (D, ...)`` and ``J (D, ...)``, diagonal, or ``J (D, D, ...)``.

    A large diagonal is taken at once, as one entry after the other takes many passes.
    """
    if J.ndim > h.ndim:
        root, white = elimination.semidefinite_factor(J, h)
        return Full(h, root, white, h - matvec(root, white))
    J = jnp.maximum(J, 0.0)
    if J.shape[0] <= MAX_UNROLLED:
        return Diagonal(h, J)
    roots = jnp.sqrt(J)
    white = jnp.where(roots > 0, h / jnp.where(roots > 0, roots, 1.0), 0.0)
    return Full(h, roots, white, jnp.where(roots > 0, 0.0, h))
