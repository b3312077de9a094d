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

from collections.abc import Callable
from functools import partial
import math
from typing import NamedTuple

import jax
from jax import Array, custom_vjp
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks.chain_steps import Dynamics, Gaussian
from numpyro_svae.blocks.elimination import (
    cholesky,
    cholesky_cotangent,
    solve_lower,
)
from numpyro_svae.blocks.filtering import filter_chain
from numpyro_svae.blocks.linalg import (
    dot,
    eye,
    log_diagonal,
    matmul,
    matvec,
    outer,
    transpose,
)
from numpyro_svae.blocks.loops import (
    each_step,
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
    "NOISY",
    "Noisy",
    "Posterior",
    "drive",
    "entropy",
    "expected_log_density",
    "kl_divergence",
    "log_density",
    "marginals",
    "noise_within",
    "posterior_entropy",
    "reverse",
    "smooth",
    "where_noisy",
]


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


@custom_vjp
def _factors(cov: Array) -> Array:
    """Cholesky factors of all steps."""
    return each_step(cholesky, cov.shape[-2], cov)


def _factors_fwd(cov):
    factors = _factors(cov)
    return factors, factors


def _factors_bwd(factors, g):
    return (each_step(cholesky_cotangent, g.shape[-2], factors, g),)


_factors.defvjp(_factors_fwd, _factors_bwd)


@partial(jax.jit, static_argnums=3)
def drive(
    initial: Gaussian, dynamics: Dynamics, eps: Array, located: bool = True
) -> Array:
    """Paths from standard normal noise.

    :param eps: ``(D, S, T, N)``.
    :param located: whether to add means and biases.
    """
    first = matmul(cholesky(initial.cov), eps[..., 0, :])
    steps = matmul(_factors(dynamics.cov), eps[..., 1:, :])
    if located:
        first, steps = first + initial.mean[:, None], steps + dynamics.bias[:, None]
    return sample_paths(first, dynamics.matrix, steps)


@jax.jit
def log_density(initial: Gaussian, dynamics: Dynamics, path: Array) -> Array:
    """``log p(path)`` for ``path (D, S, T, N)``; shape ``(S, N)``.

    Entries without noise of their own, whose pivots are zero, have a density of one at
    the value that they must have, and of zero elsewhere.
    """
    tril, noise_tril = cholesky(initial.cov), _factors(dynamics.cov)
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
    terms = log_diagonal(cholesky(dynamics.cov))
    terms = jnp.broadcast_to(terms, (num_steps - 1,) + terms.shape[1:])
    total = log_diagonal(cholesky(initial.cov)) + pairwise_sum(terms)
    return total + 0.5 * num_steps * initial.mean.shape[0] * math.log(
        2 * math.pi * math.e
    )


def _quadratic(weight: Array, cov: Array) -> Array:
    """``tr(W P W')``, whose every term is a square if ``P`` is diagonal."""
    if not len(weight):
        return jnp.zeros(cov.shape[2:], cov.dtype)
    product = matmul(weight, cov)
    terms = [dot(product[i], weight[i]) for i in range(weight.shape[0])]
    return sum(terms[1:], terms[0])


class Noisy(NamedTuple):
    """Where a chain has noise: directions ``(D, d)``, orthonormal; None for all.

    Densities of a chain whose covariances are singular are those of the first state and
    of the noise in these directions.
    """

    initial: Array | np.ndarray | None = None
    steps: Array | np.ndarray | None = None

    @property
    def everywhere(self) -> bool:
        """Whether all directions have noise."""
        return self.initial is None and self.steps is None

    @property
    def in_entries(self) -> bool:
        """Whether the directions are entries of the state, if they are known arrays."""
        bases = [np.asarray(basis) for basis in self if basis is not None]
        return all(np.all(np.isin(basis, (0.0, 1.0))) for basis in bases)


_ROUNDING = 1e-3
"""How far beside its value, relative to the path, a state without noise may be."""

NOISY = Noisy()
"""Noise everywhere."""


def _seen(basis: Array | None, x: Array) -> Array:
    """``E' x`` of vectors or matrices ``(D, ...)``."""
    return x if basis is None else jnp.tensordot(basis.T.astype(x.dtype), x, 1)


def _seen_cov(basis: Array | None, cov: Array) -> Array:
    return _seen(basis, transpose(_seen(basis, cov)))


def where_noisy(basis: Array | None, x: Array, rest: Array) -> Array:
    """``E E' x + (I - E E') rest`` of vectors or matrices ``(D, ...)``."""
    if basis is None:
        return x
    return rest + jnp.tensordot(basis.astype(x.dtype), _seen(basis, x - rest), 1)


def noise_within(basis: Array | None, cov: Array) -> Array:
    """``E E' cov E E'``."""
    within = where_noisy(basis, cov, jnp.zeros_like(cov))
    return transpose(where_noisy(basis, transpose(within), jnp.zeros_like(cov)))


@jax.jit
def posterior_entropy(
    initial: Gaussian, dynamics: Dynamics, J: Array, noisy: Noisy
) -> Array:
    """The entropy of a chain given potentials, which may be singular as the chain may.

    It is that of the chain less ``sum_t log det(I + P_t J_t) / 2``, with P the
    predicted covariances of the filter: of a chain and potentials that are centred, the
    log normaliser is that sum.

    :param J: of the potentials, as for ``filter_chain``.
    :return: of shape ``(N,)``.
    """
    count, mean = J.shape[-2], jnp.zeros_like(initial.mean)
    centred = dynamics._replace(bias=jnp.zeros_like(dynamics.bias))
    h = jnp.zeros((mean.shape[0], *J.shape[-2:]), J.dtype)
    told = filter_chain(initial._replace(mean=mean), centred, h, J).log_normalizer
    first = _entropy(_seen_cov(noisy.initial, initial.cov), cholesky)
    terms = _entropy(_seen_cov(noisy.steps, dynamics.cov), _factors)
    terms = jnp.broadcast_to(terms, (count - 1,) + terms.shape[1:])
    return first + pairwise_sum(terms) + told


def _entropy(cov: Array, factor: Callable[[Array], Array]) -> Array:
    """The entropy of Gaussians, which may have no dimension."""
    size = cov.shape[0]
    if not size:
        return jnp.zeros(cov.shape[2:], cov.dtype)
    return log_diagonal(factor(cov)) + 0.5 * size * math.log(2 * math.pi * math.e)


@jax.jit
def expected_log_density(
    p: tuple[Gaussian, Dynamics],
    moments: Gaussian,
    backwards: Dynamics,
    noisy: Noisy = NOISY,
) -> Array:
    """``E log p(path)`` under a chain that runs the other way, as posteriors do.

    With ``x_t = G x_{t+1} + c + e`` and ``e ~ N(0, V)``, the residual of a step is
    ``x_{t+1} - A x_t - b = (I - A G) x_{t+1} - A e - ...``, so that what it spreads is
    a sum of two squares, where moments of the pair would cancel.

    :param p: the chain.
    :param moments: marginal moments of the path.
    :param backwards: its conditionals backwards, in forward order of time.
    :return: of shape ``(N,)``.
    """
    initial, steps = p
    num_steps = moments.mean.shape[-2]
    first = jax.tree.map(lambda x: x[..., 0, :], first_steps(moments, 1))
    past, later = (take(moments, num_steps - 1) for take in (first_steps, last_steps))
    tril = cholesky(_seen_cov(noisy.initial, initial.cov))
    shift = _seen(noisy.initial, first.mean - initial.mean)
    whitener = _whitener(noisy.initial, tril)
    first_term = _expected_normal(tril, shift, _quadratic(whitener, first.cov))
    tril = _factors(_seen_cov(noisy.steps, steps.cov))
    shift = later.mean - matvec(steps.matrix, past.mean) - steps.bias
    whitener = _whitener(noisy.steps, tril)
    through = matmul(whitener, steps.matrix)
    rest = whitener - matmul(through, backwards.matrix)
    spread = _quadratic(rest, later.cov) + _quadratic(through, backwards.cov)
    terms = _expected_normal(tril, _seen(noisy.steps, shift), spread)
    return first_term + pairwise_sum(terms)


def _whitener(basis: Array | None, tril: Array) -> Array:
    """``L^-1``, or ``L^-1 E'``."""
    right = eye(tril)
    if basis is not None:
        back = basis.T.astype(tril.dtype)
        right = back.reshape(*back.shape, *(1,) * (tril.ndim - 2))
    shape = (*right.shape[:2], *tril.shape[2:])
    return solve_lower(tril, jnp.broadcast_to(right, shape))


def _expected_normal(tril: Array, shift: Array, spread: Array) -> Array:
    """``E log N(x; m, L L')`` where ``x - m`` has a mean, and whitened a variance."""
    if not len(tril):
        return spread
    white = solve_lower(tril, shift[:, None])[:, 0]
    constant = 0.5 * tril.shape[0] * math.log(2 * math.pi)
    return -0.5 * (dot(white, white) + spread) - log_diagonal(tril) - constant


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
    terms = _divergence(
        steps.cov + spread, cholesky(steps.cov), cholesky(other_steps.cov)
    )
    return initial_term + pairwise_sum(terms)
