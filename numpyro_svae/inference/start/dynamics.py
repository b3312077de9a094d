# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the dynamics of latent chains start that nothing is known of."""

from __future__ import annotations

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.families import RegressionNatural

__all__ = ["slow_dynamics", "slow_features"]

_PSEUDO_STEPS = 100.0
_DECAY = 0.95
_HORIZON = 64
_TURN = 0.1
_LARGEST_RADIUS = 1.1


def slow_dynamics(key: Array, prior: RegressionNatural, dim: int) -> RegressionNatural:
    """The prior mean if it says anything and is stable, else a slow decay to zero.

    Members of a batch decay each with a small rotation of its own, so that the states
    that pick them differ.
    """
    standard = prior.to_standard()
    square = standard.loc[..., :dim]
    many = jnp.linalg.matrix_power(square, _HORIZON)  # Gelfand: |F^n|^(1/n) -> radius
    radius = jnp.linalg.norm(many, axis=(-2, -1)) ** (1 / _HORIZON)
    decay = _DECAY * jnp.eye(dim)
    if prior.batch_shape:  # Cayley's rotations
        turn = 0.5 * _TURN * random.normal(key, (*prior.batch_shape, dim, dim))
        turn = turn - jnp.swapaxes(turn, -1, -2)
        decay = jnp.linalg.solve(jnp.eye(dim) - turn, decay @ (jnp.eye(dim) + turn))
    slow = jnp.zeros_like(standard.loc).at[..., :dim].set(decay)
    keep = (radius > 0) & (radius <= _LARGEST_RADIUS)
    loc = jnp.where(keep[..., None, None], standard.loc, slow)
    columns = prior.uu + _PSEUDO_STEPS * jnp.eye(loc.shape[-1])
    grow = jnp.sqrt((prior.df + _PSEUDO_STEPS) / prior.df)[..., None, None]
    return RegressionNatural.from_standard(
        loc, columns, grow * standard.scale_tril, prior.df + _PSEUDO_STEPS
    )


def slow_features(
    prior: RegressionNatural, known: Array, placement: Array
) -> RegressionNatural:
    """The prior, or features that make a slow decay, if the prior and K are zero.

    :param prior: of the weights of features, without a batch.
    :param known: K of the linear steps ``(K + F S) [x; 1]``, ``(..., D, D + 1)``.
    :param placement: S, of shape ``(..., M, D + 1)``.
    """
    known, placement = (
        jnp.mean(x, tuple(range(x.ndim - 2))) for x in (known, placement)
    )
    standard, dim = prior.to_standard(), known.shape[-2]
    target = _DECAY * jnp.eye(dim, dim + 1)
    columns = prior.uu + _PSEUDO_STEPS * placement @ placement.T
    loc = _PSEUDO_STEPS * jnp.linalg.solve(columns, placement @ target.T).T
    grow = jnp.sqrt((prior.df + _PSEUDO_STEPS) / prior.df)
    df = prior.df + _PSEUDO_STEPS
    slow = RegressionNatural.from_standard(loc, columns, grow * standard.scale_tril, df)
    silent = ~(jnp.any(standard.loc != 0) | jnp.any(known[:, :dim] != 0))
    return jax.tree.map(lambda a, b: jnp.where(silent, a, b), slow, prior)
