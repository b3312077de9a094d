# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian distributions of any shape, as rows of vectors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.families.matrices import inverse_from_tril, transpose
from numpyro_svae.program.run.classes import spelling_of

__all__ = ["NormalRows", "normal_rows"]


class NormalRows(NamedTuple):
    """A Gaussian as R independent rows of L entries.

    A number is one row of one entry, a vector one row, a matrix as many as it has; but
    one row where all entries of a matrix may depend on each other. Leading axes are
    those of the batch, or fewer where its members share what a program gives.

    :param loc: of shape ``(..., R, L)``.
    :param scale: Cholesky factors of the covariances of the rows, ``(..., R, L, L)``;
        of independent entries their deviations, ``(..., R, L, 1)``.
    """

    loc: Array
    scale: Array

    @property
    def covariance(self) -> Array:
        """The covariances of the rows, or the variances of the entries."""
        if self.scale.shape[-1] == 1:
            return self.scale**2
        return self.scale @ transpose(self.scale)

    @property
    def variance(self) -> Array:
        """The variances of the entries, ``(..., R, L)``."""
        return jnp.sum(self.scale**2, -1)

    @property
    def precision(self) -> Array:
        """The precisions of the rows, or of the entries."""
        if self.scale.shape[-1] == 1:
            return self.scale**-2
        return inverse_from_tril(self.scale)


def normal_rows(fn: Any, event: tuple[int, ...]) -> NormalRows:
    """Read a distribution as rows.

    :param fn: a ``Normal``, ``MultivariateNormal`` or ``MatrixNormal`` without what
        wraps it.
    :param event: the event shape of its site.
    """
    spelling = spelling_of(fn)
    if spelling == "matrix":
        loc = fn.loc.reshape(*fn.loc.shape[:-2], 1, -1)
        row, column = fn.scale_tril_row, fn.scale_tril_column
        both = jnp.einsum("...ij,...kl->...ikjl", row, column)
        size = loc.shape[-1]
        return NormalRows(loc, both.reshape(*both.shape[:-4], 1, size, size))
    loc = _as_rows(fn.loc, event)
    if spelling == "numbers":
        return NormalRows(loc, _as_rows(fn.scale, event)[..., None])
    tril = fn.scale_tril
    if len(event) == 1:
        return NormalRows(loc, tril[..., None, :, :])
    size, lead = event[-1], max(tril.ndim - len(event) - 1, 0)
    tril = jnp.broadcast_to(tril, (*tril.shape[:lead], *event, size))
    return NormalRows(loc, tril.reshape(*tril.shape[:lead], -1, size, size))


def _as_rows(value: Any, event: tuple[int, ...]) -> Array:
    value = jnp.asarray(value, jnp.result_type(value, float))
    lead = value.shape[: max(value.ndim - len(event), 0)]
    rows = math.prod(event[:-1]), (1, *event)[-1]
    return jnp.broadcast_to(value, (*lead, *event)).reshape(*lead, *rows)
