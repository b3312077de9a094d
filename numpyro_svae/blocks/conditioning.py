# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One Gaussian conditioned on one Gaussian potential, for many lanes at once.

With ``psi(x) = h' x - x' J x / 2``, ``J = U U'`` and ``h = U w + rest``, the posterior
of ``x ~ N(m, P)`` has

    S   = I + U' P U,   G = P U S^-1,   W = I - G U'            (W = (I + P J)^-1)
    e   = U S^-1 (w - U' m) + W' rest                           (e = h - J m_f)
    m_f = m + P e,      P_f = W P W' + G G'.

Only ``S``, whose eigenvalues are at least one, is factorised, so ``P`` and ``J`` may be
singular; a zero potential changes nothing, exactly. The covariance is a sum of two
squares, so that it stays positive whatever the precisions.
"""

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks import elimination, linalg
from numpyro_svae.blocks.linalg import matmul, matmul_transposed, matvec, transpose

__all__ = [
    "Conditioned",
    "Potential",
    "condition",
    "factor",
    "information",
    "log_normalizer_terms",
]


class Potential(NamedTuple):
    """A factored potential; a diagonal ``J`` keeps the diagonal of ``U`` only."""

    root: Array
    white: Array
    rest: Array

    def times_root(self, a: Array) -> Array:
        """``a U`` for ``a (I, D, *lanes)``."""
        if self.root.ndim < a.ndim:
            return a * self.root[None]
        return matmul(a, self.root)

    def root_times_matrix(self, a: Array) -> Array:
        """``U a`` for ``a (D, J, *lanes)``."""
        if self.root.ndim < a.ndim:
            return self.root[:, None] * a
        return matmul(self.root, a)

    def root_times(self, x: Array) -> Array:
        """``U x`` for ``x (D, *lanes)``."""
        if self.root.ndim == x.ndim:
            return self.root * x
        return matvec(self.root, x)

    def root_transposed_times(self, x: Array) -> Array:
        """``U' x`` for ``x (D, *lanes)``."""
        if self.root.ndim == x.ndim:
            return self.root * x
        return matvec(transpose(self.root), x)


class Conditioned(NamedTuple):
    """The posterior and what its derivative needs."""

    mean: Array
    cov: Array
    weight: Array  # W
    score: Array  # e
    deviance: Array  # (w - U' m)' S^-1 (w - U' m) + log det S


def factor(h: Array, J: Array) -> Potential:
    """Factor ``h (D, ...)`` and ``J (D, ...)``, diagonal, or ``J (D, D, ...)``."""
    if J.ndim > h.ndim:
        root, white = elimination.semidefinite_factor(J, h)
        return Potential(root, white, h - matvec(root, white))
    positive = J > 0
    root = jnp.sqrt(jnp.where(positive, J, 1.0))
    white = jnp.where(positive, h / root, 0.0)
    return Potential(jnp.where(positive, root, 0.0), white, jnp.where(positive, 0.0, h))


def _spread(cov: Array, potential: Potential) -> tuple[Array, Array]:
    """``S = I + U' P U`` and ``U' P``."""
    cross = transpose(potential.times_root(cov))
    return linalg.eye(cov) + potential.times_root(cross), cross


def condition(mean: Array, cov: Array, potential: Potential) -> Conditioned:
    """Condition ``N(mean, cov)`` on a factored potential."""
    spread, cross = _spread(cov, potential)
    residual = potential.white - potential.root_transposed_times(mean)
    gain, solved, log_det = _solve(spread, cross, residual)
    pull = linalg.eye(cov) - potential.root_times_matrix(gain)
    score = potential.root_times(solved) + matvec(pull, potential.rest)
    return Conditioned(
        mean=mean + matvec(cov, score),
        cov=matmul_transposed(pull, matmul(cov, pull)) + matmul_transposed(gain, gain),
        weight=transpose(pull),
        score=score,
        deviance=jnp.sum(residual * solved, 0) + log_det,
    )


def _solve(spread: Array, cross: Array, residual: Array):
    """``G' = S^-1 U' P``, ``S^-1 r`` and ``log det S``; ``r`` may have more lanes."""
    if residual.shape[1:] == spread.shape[2:]:
        right = jnp.concatenate([cross, residual[:, None]], 1)
        solved, log_det = elimination.solve_posdef(spread, right)
        return solved[:, :-1], solved[:, -1], log_det
    identity = jnp.broadcast_to(linalg.eye(spread), spread.shape)
    right = jnp.concatenate([cross, identity], 1)
    solved, log_det = elimination.solve_posdef(spread, right)
    size = spread.shape[0]
    return solved[:, :size], matvec(solved[:, size:], residual), log_det


def log_normalizer_terms(potential: Potential, posterior: Conditioned) -> Array:
    """``log int N(x; m, P) exp(psi(x)) dx``, from the posterior.

    It is ``|w|^2 / 2 - deviance / 2 + rest' m_f - rest' P_f rest / 2``.
    """
    rest = potential.rest
    linear = rest * (posterior.mean - 0.5 * matvec(posterior.cov, rest))
    return jnp.sum(0.5 * potential.white**2 + linear, 0) - 0.5 * posterior.deviance


def information(cov: Array, potential: Potential) -> Array:
    """``J W = U S^-1 U'``, by which the potential pulls on its prior mean."""
    spread, _ = _spread(cov, potential)
    identity = jnp.broadcast_to(linalg.eye(spread), spread.shape)
    inverse, _ = elimination.solve_posdef(spread, identity)
    return potential.root_times_matrix(transpose(potential.root_times_matrix(inverse)))
