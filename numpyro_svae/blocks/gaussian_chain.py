# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Exact inference in a Gaussian Markov chain with Gaussian potentials.

The chain is ``x_0 ~ N(m, P)``, ``x_{t+1} ~ N(A_t x_t + b_t, Q_t)``, and a potential
multiplies it by ``exp(h_t' x_t - x_t' J_t x_t / 2)`` at every step. Messages are kept
as moments and potentials in information form, which stays accurate in single precision
where precision matrices do not, when the dynamics are nearly deterministic.

Layout: entries, time, lanes. Vectors are ``(D, T, N)`` and matrices ``(D, D, T, N)``;
axes of time and lanes have full size or one, and those of size one are shared without
copying. Only the recursions depend on the order of time; everything else is
independent between steps. Each recursion has its adjoint in closed form, a loop of
small matrix products in the other direction.

**References:** S. Särkkä and L. Svensson, *Bayesian Filtering and Smoothing*, 2nd ed.
(2023), chapters 6 and 12, for the recursions; the covariance update is that of Bucy and
Joseph (1968).
"""

from functools import partial
import math
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.chain_expectations import factors
from numpyro_svae.blocks.chain_steps import Dynamics, Gaussian
from numpyro_svae.blocks.elimination import (
    cholesky,
    solve_lower,
)
from numpyro_svae.blocks.filtering import filter_chain
from numpyro_svae.blocks.linalg import (
    dot,
    log_diagonal,
    matmul,
    matvec,
    outer,
    transpose,
)
from numpyro_svae.blocks.loops import (
    first_steps,
    flip_steps,
    last_steps,
    pairwise_sum,
)
from numpyro_svae.blocks.propagation import marginals, sample_paths
from numpyro_svae.blocks.smoothing import reverse_conditionals

__all__ = [
    "Dynamics",
    "Gaussian",
    "Posterior",
    "drive",
    "entropy",
    "kl_divergence",
    "log_density",
    "marginals",
    "reverse",
    "smooth",
]


_ROUNDING = 1e-3
"""How far beside its value, relative to the path, a state without noise may be."""


class Posterior(NamedTuple):
    """The posterior as a chain in the other direction, with its moments."""

    initial: Gaussian
    dynamics: Dynamics
    marginals: Gaussian
    log_normalizer: Array


@jax.jit
def reverse(moments: Gaussian, dynamics: Dynamics) -> tuple[Gaussian, Dynamics]:
    """The chain from the last state to the first.

    :param moments: of ``x_t`` given all that its past and ``dynamics`` do not tell:
        marginal moments give the same chain, filtered ones the posterior.
    """
    past = first_steps(moments, moments.mean.shape[-2] - 1)
    steps = reverse_conditionals(past, dynamics)
    last = jax.tree.map(lambda x: x[..., 0, :], last_steps(moments, 1))
    return last, flip_steps(steps)


@jax.jit
def smooth(initial: Gaussian, dynamics: Dynamics, h: Array, J: Array) -> Posterior:
    """Condition a chain on potentials; shapes as for ``filter_chain``."""
    filtered = filter_chain(initial, dynamics, h, J)
    last, backwards = reverse(Gaussian(filtered.mean, filtered.cov), dynamics)
    moments = marginals(last, backwards, h.shape[1])
    return Posterior(last, backwards, moments, filtered.log_normalizer)


@partial(jax.jit, static_argnums=3)
def drive(
    initial: Gaussian, dynamics: Dynamics, eps: Array, located: bool = True
) -> Array:
    """Paths from standard normal noise.

    :param eps: ``(D, S, T, N)``.
    :param located: whether to add means and biases.
    """
    eps = jax.lax.optimization_barrier(eps)  # or each kernel draws it again
    first = matmul(cholesky(initial.cov), eps[..., 0, :])
    steps = matmul(factors(dynamics.cov), eps[..., 1:, :])
    if located:
        first, steps = first + initial.mean[:, None], steps + dynamics.bias[:, None]
    return sample_paths(first, dynamics.matrix, steps)


@jax.jit
def log_density(initial: Gaussian, dynamics: Dynamics, path: Array) -> Array:
    """``log p(path)`` for ``path (D, S, T, N)``; shape ``(S, N)``.

    Entries without noise of their own, whose pivots are zero, have a density of one at
    the value that they must have, and of zero elsewhere.
    """
    tril, noise_tril = cholesky(initial.cov), factors(dynamics.cov)
    first = path[..., 0, :] - initial.mean[:, None]
    told = matmul(dynamics.matrix, path[..., :-1, :]) + dynamics.bias[:, None]
    size = jnp.max(jnp.abs(told), 0) + jnp.max(jnp.abs(path[..., 1:, :]), 0)
    begun = jnp.max(jnp.abs(path[..., 0, :]), 0)
    first_term = _log_normal(tril, first, begun)
    terms = _log_normal(noise_tril, path[..., 1:, :] - told, size)
    return first_term + pairwise_sum(jnp.moveaxis(terms, -2, 0))


def _log_normal(tril: Array, shift: Array, size: Array) -> Array:
    """``log N(shift; 0, L L')``, where L may have zero columns.

    :param shift: ``(D, S, ...)``.
    :param size: of what the shift is a difference of, ``(S, ...)``.
    """
    white = solve_lower(tril, shift)
    pivots = jnp.stack([tril[k, k] for k in range(len(tril))])
    noisy = pivots > 0
    constant = 0.5 * math.log(2 * math.pi)
    logs = jnp.where(noisy, jnp.log(jnp.where(noisy, pivots, 1.0)) + constant, 0.0)
    value = -0.5 * dot(white, white) - jnp.sum(logs, 0)
    beyond = jnp.where(noisy[:, None], 0.0, jnp.abs(shift - matmul(tril, white)))
    return jnp.where(jnp.max(beyond, 0) > _ROUNDING * size, -jnp.inf, value)


@partial(jax.jit, static_argnums=2)
def entropy(initial: Gaussian, dynamics: Dynamics, num_steps: int) -> Array:
    """The sum of the entropies of the conditionals."""
    terms = log_diagonal(factors(dynamics.cov))
    terms = jnp.broadcast_to(terms, (num_steps - 1,) + terms.shape[1:])
    total = log_diagonal(cholesky(initial.cov)) + pairwise_sum(terms)
    return total + 0.5 * num_steps * initial.mean.shape[0] * math.log(
        2 * math.pi * math.e
    )


def _divergence(spread: Array, tril: Array, other: Array) -> Array:
    """``(tr(R^-1 S) - D + log det R - log det Q) / 2`` with ``Q``, ``R`` as factors."""
    half = solve_lower(other, spread)
    half = solve_lower(other, transpose(half))
    trace = sum(half[i, i] - 1.0 for i in range(half.shape[0]))
    return 0.5 * trace + log_diagonal(other) - log_diagonal(tril)


@jax.jit
def kl_divergence(
    p: tuple[Gaussian, Dynamics], moments: Gaussian, q: tuple[Gaussian, Dynamics]
) -> Array:
    """``KL(p || q)`` of two chains in the same direction; ``moments`` are those of p.

    The conditionals differ by ``N(dA x_t + db + ., Q)``, averaged over ``x_t`` of p.
    """
    (first, steps), (other, other_steps) = p, q
    shift = first.mean - other.mean
    initial_term = _divergence(
        first.cov + outer(shift, shift),
        cholesky(first.cov),
        cholesky(other.cov),
    )
    matrix = steps.matrix - other_steps.matrix
    past = first_steps(moments, moments.mean.shape[-2] - 1)
    shift = matvec(matrix, past.mean) + steps.bias - other_steps.bias
    spread = matmul(matmul(matrix, past.cov), transpose(matrix)) + outer(shift, shift)
    factor, other_factor = factors(steps.cov), factors(other_steps.cov)
    terms = _divergence(steps.cov + spread, factor, other_factor)
    return initial_term + pairwise_sum(terms)
