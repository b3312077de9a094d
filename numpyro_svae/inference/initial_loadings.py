# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the loadings of an observation on a latent state start."""

from __future__ import annotations

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import RegressionNatural

__all__ = ["loadings"]


def loadings(
    prior: RegressionNatural,
    v: Array,
    u: Array,
    weight: Array,
    parent_map: Array,
    scale: Array | float,
) -> RegressionNatural:
    """Principal directions of what the known regressors leave unexplained."""
    known = jax.tree.map(
        lambda leaf: jnp.sum(leaf, 0), RegressionNatural.observe(v, u, weight)
    )
    columns = u.shape[-1]
    ridge = known.uu + 1e-3 * jnp.eye(columns)
    offset = jnp.linalg.solve(ridge, known.vu.T).T
    residual = (v - u @ offset.T) * weight[:, None]
    count = jnp.maximum(jnp.sum(weight), 1.0)
    covariance = residual.T @ residual / count
    values, vectors = jnp.linalg.eigh(covariance)
    state = parent_map.shape[1]
    rank = min(state, v.shape[-1])
    loading = vectors[:, ::-1][:, :rank] * jnp.sqrt(jnp.maximum(values[::-1][:rank], 0))
    loading = jnp.pad(loading, ((0, 0), (0, state - rank)))
    weight_matrix = offset + loading @ jnp.linalg.pinv(parent_map)
    left = jnp.trace(covariance) - jnp.sum(loading**2)
    noise = jnp.maximum(left, 0.01 * jnp.trace(covariance)) / v.shape[-1]
    steps = count * scale
    scale_tril = prior.to_standard().scale_tril
    spread = scale_tril @ scale_tril.T + steps * noise * jnp.eye(v.shape[-1])
    return RegressionNatural.from_standard(
        weight_matrix,
        prior.uu + steps * jnp.eye(columns),
        jnp.linalg.cholesky(spread),
        prior.df + steps,
    )
