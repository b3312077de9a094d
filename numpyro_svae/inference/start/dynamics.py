# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the dynamics of latent chains start that nothing is known of."""

from __future__ import annotations

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.families import RegressionNatural

__all__ = ["slow_dynamics"]

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
    turn = jnp.zeros((dim, dim))
    if prior.batch_shape:
        turn = _TURN * random.normal(key, (*prior.batch_shape, dim, dim))
        turn = turn - jnp.swapaxes(turn, -1, -2)
    decay = _DECAY * jax.scipy.linalg.expm(turn)
    slow = jnp.zeros_like(standard.loc).at[..., :dim].set(decay)
    keep = (radius > 0) & (radius <= _LARGEST_RADIUS)
    loc = jnp.where(keep[..., None, None], standard.loc, slow)
    columns = prior.uu + _PSEUDO_STEPS * jnp.eye(loc.shape[-1])
    grow = jnp.sqrt((prior.df + _PSEUDO_STEPS) / prior.df)[..., None, None]
    return RegressionNatural.from_standard(
        loc, columns, grow * standard.scale_tril, prior.df + _PSEUDO_STEPS
    )
