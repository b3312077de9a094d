# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One Gaussian conditioned on one Gaussian potential, for many lanes at once.

With ``psi(x) = h' x - x' J x / 2``, ``J = U U'`` and ``h = U w + rest``, the posterior of
``x ~ N(m, P)`` has

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

from numpyro_svae.blocks import linalg
from numpyro_svae.blocks.linalg import matmul, matvec, transpose

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

    def times_root_transposed(self, a: Array) -> Array:
        """``a U'`` for ``a (I, D, *lanes)``."""
        if self.root.ndim < a.ndim:
            return a * self.root[None]
        return matmul(a, transpose(self.root))

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
    tril: Array  # Cholesky factor of S
    deviance: Array  # |S^-1/2 (w - U' m)|^2 + log det S


def factor(h: Array, J: Array) -> Potential:
    """Factor ``h (D, *lanes)`` and ``J (D, *lanes)`` (diagonal) or ``(D, D, *lanes)``."""
    if J.ndim > h.ndim:
        root, white = linalg.semidefinite_factor(J, h)
        return Potential(root, white, h - matvec(root, white))
    positive = J > 0
    root = jnp.sqrt(jnp.where(positive, J, 1.0))
    white = jnp.where(positive, h / root, 0.0)
    return Potential(jnp.where(positive, root, 0.0), white, jnp.where(positive, 0.0, h))


def condition(mean: Array, cov: Array, potential: Potential) -> Conditioned:
    """Condition ``N(mean, cov)`` on a factored potential."""
    gain = potential.times_root(cov)
    inner = transpose(potential.times_root(transpose(gain)))
    tril = linalg.cholesky(linalg.eye(cov) + inner)
    residual = potential.white - potential.root_transposed_times(mean)
    half = linalg.solve_lower(tril, transpose(gain))
    half_residual = linalg.solve_lower(tril, residual[:, None])
    gain = transpose(linalg.solve_lower_transposed(tril, half))
    white_score = linalg.solve_lower_transposed(tril, half_residual)[:, 0]
    weight = linalg.eye(cov) - potential.times_root_transposed(gain)
    score = potential.root_times(white_score) + matvec(
        transpose(weight), potential.rest
    )
    return Conditioned(
        mean=mean + matvec(cov, score),
        cov=matmul(matmul(weight, cov), transpose(weight))
        + matmul(gain, transpose(gain)),
        weight=weight,
        score=score,
        tril=tril,
        deviance=jnp.sum(half_residual**2, (0, 1)) + 2 * linalg.log_diagonal(tril),
    )


def log_normalizer_terms(potential: Potential, posterior: Conditioned) -> Array:
    """``log int N(x; m, P) exp(psi(x)) dx``, from the posterior.

    It is ``|w|^2 / 2 - deviance / 2 + rest' m_f - rest' P_f rest / 2``.
    """
    rest = potential.rest
    linear = rest * (posterior.mean - 0.5 * matvec(posterior.cov, rest))
    return jnp.sum(0.5 * potential.white**2 + linear, 0) - 0.5 * posterior.deviance


def information(potential: Potential, tril: Array) -> Array:
    """``J W = U S^-1 U'``, the precision that the potential adds to its prior mean."""
    if potential.root.ndim < tril.ndim:
        root = linalg.eye(tril) * potential.root[None]
    else:
        root = potential.root
    half = linalg.solve_lower(tril, transpose(root))
    return matmul(transpose(half), half)
