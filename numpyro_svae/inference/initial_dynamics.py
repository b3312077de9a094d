# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the dynamics of latent chains start."""

from __future__ import annotations

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.families import RegressionNatural
from numpyro_svae.inference.clustering import spread_components

__all__ = ["slow_dynamics", "switching_dynamics"]

_PSEUDO_STEPS = 100.0
_DECAY = 0.95
_HORIZON = 64
_TURN = 0.1
_LARGEST_RADIUS = 1.1


def switching_dynamics(
    key: Array, prior: RegressionNatural, path: Array, inputs: Array, weight: Array
) -> RegressionNatural:
    """Regressions in the regions that clusters of states and their changes make.

    States alone would not do: dynamics that differ may cross the same region.

    :param key: random key.
    :param prior: with batch ``(K,)``.
    :param path: estimates of the states, ``(..., T, D)``.
    :param inputs: ``(..., T - 1, A)``.
    :param weight: of the steps, ``(..., T - 1)``.
    """
    before, after = path[..., :-1, :], path[..., 1:, :]
    steps, dim = before.shape[:-1], before.shape[-1]
    inputs = jnp.broadcast_to(inputs, (*steps, inputs.shape[-1]))
    v, u = after.reshape(-1, dim), jnp.concatenate([before, inputs], -1)
    u = u.reshape(len(v), -1)
    shares = jnp.broadcast_to(weight, steps).reshape(-1)
    shown = jnp.concatenate(
        [_scaled(u[:, :dim], shares), _scaled(v - u[:, :dim], shares)], -1
    )
    member = spread_components(key, shown, shares, prior.batch_shape[0], None)
    seen = RegressionNatural.observe(v[:, None], u[:, None], member * shares[:, None])
    return prior + jax.tree.map(lambda leaf: jnp.sum(leaf, 0), seen)


def _scaled(x: Array, weight: Array) -> Array:
    """Values with mean zero and total variance one."""
    total = jnp.maximum(jnp.sum(weight), 1e-30)
    centred = x - weight @ x / total
    variance = jnp.sum(weight @ centred**2) / total
    return centred / jnp.sqrt(jnp.maximum(variance, 1e-30))


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
