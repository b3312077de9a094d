# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factors and triangular solves of many small matrices, by products over lanes."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.elimination import (
    cholesky,
    solve_lower,
    solve_lower_transposed,
)

__all__ = ["cholesky_of", "unwhiten", "whiten"]


def cholesky_of(cov: Array) -> Array:
    """Cholesky factors, ``(..., D, D)``."""
    return jnp.moveaxis(cholesky(jnp.moveaxis(cov, (-2, -1), (0, 1))), (0, 1), (-2, -1))


def whiten(root: Array, x: Array) -> Array:
    """Columns times the inverse of a Cholesky factor."""
    return _solve(solve_lower, root, x)


def unwhiten(root: Array, x: Array) -> Array:
    """Columns times the transposed inverse of a Cholesky factor."""
    return _solve(solve_lower_transposed, root, x)


def _solve(solve: Callable, root: Array, x: Array) -> Array:
    """One of the triangular solves of the blocks.

    They are products over lanes: calls of a library for each of many small matrices, as
    there are for the points of expectations, may wait for each other for ever on CPUs.
    """
    batch = jnp.broadcast_shapes(root.shape[:-2], x.shape[:-2])
    root, x = (
        jnp.moveaxis(jnp.broadcast_to(y, (*batch, *y.shape[-2:])), (-2, -1), (0, 1))
        for y in (root, x)
    )
    return jnp.moveaxis(solve(root, x), (0, 1), (-2, -1))
