# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is expected of a Gaussian chain, whose noise may be in some directions only.

With E the directions in which a part of the chain has noise, all densities are of the
first state and of the noise E' (x' - A x - b). No covariance is inverted but E' Q E.
The layout is that of :mod:`numpyro_svae.blocks.gaussian_chain`.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
from jax import Array, custom_vjp
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks.chain_steps import Dynamics, Gaussian
from numpyro_svae.blocks.elimination import cholesky, cholesky_cotangent, solve_lower
from numpyro_svae.blocks.filtering import filter_chain
from numpyro_svae.blocks.linalg import (
    dot,
    eye,
    log_diagonal,
    matmul,
    matvec,
    transpose,
)
from numpyro_svae.blocks.loops import each_step, first_steps, last_steps, pairwise_sum

__all__ = [
    "NOISY",
    "Noisy",
    "expected_log_density",
    "factors",
    "noise_within",
    "posterior_entropy",
    "where_noisy",
]

Basis = Array | np.ndarray | None


class Noisy(NamedTuple):
    """Where a chain has noise: directions ``(D, d)``, orthonormal; None for all.

    Densities of a chain whose covariances are singular are those of the first state and
    of the noise in these directions.
    """

    initial: Basis = None
    steps: Basis = None

    @property
    def everywhere(self) -> bool:
        """Whether all directions have noise."""
        return self.initial is None and self.steps is None

    @property
    def in_entries(self) -> bool:
        """Whether the directions are entries of the state, if they are known arrays."""
        bases = [np.asarray(basis) for basis in self if basis is not None]
        return all(np.all(np.isin(basis, (0.0, 1.0))) for basis in bases)


NOISY = Noisy()
"""Noise everywhere."""


def _seen(basis: Basis, x: Array) -> Array:
    """``E' x`` of vectors or matrices ``(D, ...)``."""
    return x if basis is None else jnp.tensordot(jnp.asarray(basis.T, x.dtype), x, 1)


def _seen_cov(basis: Basis, cov: Array) -> Array:
    return _seen(basis, transpose(_seen(basis, cov)))


def where_noisy(basis: Basis, x: Array, rest: Array) -> Array:
    """``E E' x + (I - E E') rest`` of vectors or matrices ``(D, ...)``."""
    if basis is None:
        return x
    return rest + jnp.tensordot(jnp.asarray(basis, x.dtype), _seen(basis, x - rest), 1)


def noise_within(basis: Basis, cov: Array) -> Array:
    """``E E' cov E E'``."""
    within = where_noisy(basis, cov, jnp.zeros_like(cov))
    return transpose(where_noisy(basis, transpose(within), jnp.zeros_like(cov)))


@custom_vjp
def factors(cov: Array) -> Array:
    """Cholesky factors of all steps."""
    return each_step(cholesky, cov.shape[-2], cov)


def _factors_fwd(cov):
    found = factors(cov)
    return found, found


def _factors_bwd(found, g):
    return (each_step(cholesky_cotangent, g.shape[-2], found, g),)


factors.defvjp(_factors_fwd, _factors_bwd)


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
    terms = _entropy(_seen_cov(noisy.steps, dynamics.cov), factors)
    terms = jnp.broadcast_to(terms, (count - 1,) + terms.shape[1:])
    return first + pairwise_sum(terms) + told


def _entropy(cov: Array, factor: Callable[[Array], Array]) -> Array:
    """The entropy of Gaussians, which may have no dimension."""
    size = cov.shape[0]
    if not size:
        return jnp.zeros(cov.shape[2:], cov.dtype)
    return log_diagonal(factor(cov)) + 0.5 * size * math.log(2 * math.pi * math.e)


def _quadratic(weight: Array, cov: Array) -> Array:
    """``tr(W P W')``, whose every term is a square if ``P`` is diagonal."""
    if not len(weight):
        return jnp.zeros(cov.shape[2:], cov.dtype)
    product = matmul(weight, cov)
    entries = (weight.shape[0] * weight.shape[1],)  # there may be no step
    return dot(*(jnp.reshape(x, entries + x.shape[2:]) for x in (product, weight)))


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
    whitener = _whitener(noisy.initial, tril)
    white = matvec(whitener, first.mean - initial.mean)
    first_term = _expected_normal(tril, white, _quadratic(whitener, first.cov))
    tril = factors(_seen_cov(noisy.steps, steps.cov))
    shift = later.mean - matvec(steps.matrix, past.mean) - steps.bias
    whitener = _whitener(noisy.steps, tril)
    through = matmul(whitener, steps.matrix)
    rest = whitener - matmul(through, backwards.matrix)
    spread = _quadratic(rest, later.cov) + _quadratic(through, backwards.cov)
    terms = _expected_normal(tril, matvec(whitener, shift), spread)
    return first_term + pairwise_sum(terms)


def _whitener(basis: Basis, tril: Array) -> Array:
    """``L^-1``, or ``L^-1 E'``."""
    right = eye(tril)
    if basis is not None:
        back = jnp.asarray(basis.T, tril.dtype)
        right = back.reshape(*back.shape, *(1,) * (tril.ndim - 2))
    shape = (*right.shape[:2], *tril.shape[2:])
    return solve_lower(tril, jnp.broadcast_to(right, shape))


def _expected_normal(tril: Array, white: Array, spread: Array) -> Array:
    """``E log N(x; m, L L')`` where ``L^-1 (x - m)`` has a mean, and a variance."""
    if not len(tril):
        return spread
    constant = 0.5 * tril.shape[0] * math.log(2 * math.pi)
    return -0.5 * (dot(white, white) + spread) - log_diagonal(tril) - constant
