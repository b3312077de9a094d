# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The divergence of an inverse-Wishart posterior from a prior of any density.

The message of the prior is the regression of its log density on the statistics of the
inverse-Wishart under the posterior, as in
:mod:`~numpyro_svae.families.free_prior`. The expectations are those of draws with a
fixed key: what the regression explains has its expectation in closed form, so that only
what it does not is left to the draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any, NamedTuple

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, multigammaln
import numpyro.distributions as dist

from numpyro_svae.families.matrices import log_diagonal, transpose
from numpyro_svae.families.regression import RegressionNatural

__all__ = ["closest_inverse_wishart", "free_covariance_kl"]

LogDensity = Callable[[Any, Array], Array]
_DRAWS = 64  # for each statistic


class _Fit(NamedTuple):
    """The regression of a log density on the statistics of a posterior.

    :param message: natural parameters.
    :param expected: the expected log density.
    """

    message: RegressionNatural
    expected: Array


def _fit(log_density: LogDensity, natural: RegressionNatural, prior: Any) -> _Fit:
    """The regression, with precisions in units of their mean."""
    tril, df = jnp.linalg.cholesky(natural.vv), natural.df
    dim = tril.shape[-1]
    rows, columns = jnp.tril_indices(dim)
    count = _DRAWS * (len(rows) + 2)
    batch = natural.batch_shape
    unit = dist.Wishart(df, jnp.broadcast_to(jnp.eye(dim), (*batch, dim, dim)))
    root = jnp.linalg.cholesky(unit.sample(random.PRNGKey(0), (count,)))
    # precision = L^-T W L^-1 with W = root root', so covariance = H H', H = L root^-T
    half = tril @ transpose(solve_triangular(root, _eyes(root), lower=True))
    values = log_density(prior, half @ transpose(half))
    scale = df[..., None, None]
    precision = root @ transpose(root) / scale
    logs = 2 * log_diagonal(root)
    mean_log = jnp.sum(digamma(0.5 * (df[..., None] - jnp.arange(dim))), -1)
    mean_log = mean_log + dim * log(2)
    entries = precision[..., rows, columns] - jnp.eye(dim)[rows, columns]
    parts = [jnp.ones_like(logs), logs - mean_log]
    design = jnp.concatenate([jnp.stack(parts, -1), entries], -1)
    design = jnp.moveaxis(design, 0, -2)
    q, r = jnp.linalg.qr(design)
    target = transpose(q) @ jnp.moveaxis(values, 0, -1)[..., None]
    found = solve_triangular(r, target, lower=False)[..., 0]
    lower = jnp.zeros((*batch, dim, dim)).at[..., rows, columns].set(found[..., 2:])
    slope = 0.5 * (lower + transpose(lower)) / scale
    # log p ~ ... + a log|W| + tr(C W) with W = L' Sigma^-1 L
    vv = -2 * tril @ slope @ transpose(tril)
    df_message = 2 * found[..., 1] - dim - 1
    zeros = jnp.zeros_like(natural.vu), jnp.zeros_like(natural.uu)
    return _Fit(RegressionNatural(vv, *zeros, df_message), found[..., 0])


def _eyes(matrix: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)


def closest_inverse_wishart(
    log_density: LogDensity, natural: RegressionNatural, prior: Any
) -> RegressionNatural:
    """The message of a prior to an inverse-Wishart posterior.

    :param log_density: of covariances, of the shape of what is around them.
    :param natural: the posterior, without a weight.
    :param prior: the prior, the first argument of the density.
    :return: natural parameters, which may be outside of their domain.
    """
    return _fit(log_density, natural, prior).message


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def free_covariance_kl(
    log_density: LogDensity, natural: RegressionNatural, prior: Any
) -> Array:
    """The divergence of an inverse-Wishart from a prior, with the natural gradient.

    :param log_density: of covariances, of the shape of what is around them.
    :param natural: the posterior, without a weight.
    :param prior: the prior, a pytree.
    :return: the divergence, of the batch shape of the posterior.
    """
    return _own_term(natural) - _fit(log_density, natural, prior).expected


def _own_term(natural: RegressionNatural) -> Array:
    """What is expected of the log density of an inverse-Wishart."""
    df, dim = natural.df, natural.vv.shape[-1]
    log_det = 2 * log_diagonal(jnp.linalg.cholesky(natural.vv))
    digammas = jnp.sum(digamma(0.5 * (df[..., None] - jnp.arange(dim))), -1)
    expected = log_det - digammas - dim * log(2)  # of log|Sigma|
    normalizer = 0.5 * df * (log_det - dim * log(2)) - multigammaln(0.5 * df, dim)
    return normalizer - 0.5 * (df + dim + 1) * expected - 0.5 * df * dim


def _forward(log_density: LogDensity, natural: Any, prior: Any) -> tuple[Array, tuple]:
    return free_covariance_kl(log_density, natural, prior), (natural, prior)


def _backward(log_density: LogDensity, known: tuple, cotangent: Array) -> tuple:
    natural, prior = known
    message = closest_inverse_wishart(log_density, natural, prior)

    def expected(prior: Any) -> Array:
        return _fit(log_density, natural, prior).expected

    (to_prior,) = jax.vjp(expected, prior)[1](-cotangent)
    return (natural - message).scale(cotangent), to_prior


free_covariance_kl.defvjp(_forward, _backward)
