# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Expected log density of a Gaussian factor at known points."""

from __future__ import annotations

from math import log, pi, prod

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.families.matrices import (
    cholesky,
    log_diagonal,
    solve_tril,
    symmetric,
    transpose,
)

__all__ = ["log_density", "whitener_of"]


@jax.custom_jvp
def whitener_of(covariance: Array) -> tuple[Array, Array]:
    """``W = L^-1`` with ``L L' = covariance``, and ``log|covariance|``.

    Factors are few and vectors many, so the triangular solve is done once on the
    identity and whitening is one product; and so is its derivative.
    """
    tril = cholesky(covariance)
    identity = jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape)
    return solve_tril(tril, identity), 2 * log_diagonal(tril)


@whitener_of.defjvp
def _whitener_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """``dW = -phi(W dS W') W``, where phi is the lower half (Murray, 2016)."""
    whitener, log_det = whitener_of(*primals)
    change = whitener @ symmetric(tangents[0]) @ transpose(whitener)
    half = 0.5 * (jnp.tril(change) + jnp.tril(change, -1))
    trace = jnp.trace(change, axis1=-2, axis2=-1)
    return (whitener, log_det), (-half @ whitener, trace)


def log_density(
    regression: ExpectedRegression, v: Array, u: Array, whitener: Array | None = None
) -> Array:
    """The factor at a known response ``(..., D)`` and regressor ``(..., M)``.

    Positions that share the regressions are lanes, the last axis, so that their sums
    in the gradient are products of matrices, and no array is transposed on the way.

    :param whitener: that of the covariance, for whoever has it: used twice, it has one
        derivative.
    """
    if whitener is None:
        whitener, _ = whitener_of(regression.covariance)
    weight, _, excess, log_det = regression
    own = max(weight.ndim - 2, whitener.ndim - 2, excess.ndim - 2, log_det.ndim)
    batch = jnp.broadcast_shapes(v.shape[:-1], u.shape[:-1])
    shared = batch[: max(len(batch) - own, 0)]
    v, u = (_to_lanes(x, len(batch), shared) for x in (v, u))
    whitened = _product(whitener, v - _product(weight, u))
    quadratic = jnp.sum(whitened**2, -2) + jnp.sum(u * _product(excess, u), -2)
    constant = log_det + v.shape[-2] * log(2 * pi)
    value = jnp.moveaxis(-0.5 * (quadratic + constant[..., None]), -1, 0)
    return value.reshape(*shared, *value.shape[1:])


def _to_lanes(x: Array, rank: int, shared: tuple[int, ...]) -> Array:
    """Vectors ``(*shared, ..., D)``, or less, as ``(..., D, lanes)``.

    :param rank: number of all axes but the last.
    """
    x = jnp.expand_dims(x, tuple(range(rank + 1 - x.ndim)))
    x = jnp.broadcast_to(x, shared + x.shape[len(shared) :])
    return jnp.moveaxis(x.reshape(prod(shared), *x.shape[len(shared) :]), 0, -1)


def _product(matrix: Array, x: Array) -> Array:
    """Matrices ``(..., I, J)`` times ``(..., J, lanes)``.

    Without copies of lanes that all of the matrices are multiplied with.
    """
    return jnp.einsum("...ij,...jn->...in", matrix, x)
