# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How far the values of a global Gaussian site are from their location.

The covariance of a population is known, or is that of a block: of precisions, of which
each entry has one, or of covariances, of which each row has one. The precisions of
several blocks may be multiplied, as in a horseshoe prior. Where these are in the
block is read from the program at values that tell the members apart.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.families.matrices import inverse_from_tril, log_diagonal
from numpyro_svae.program.priors.joins import nothing_learnt
from numpyro_svae.program.priors.joint_prior import JointPrior
from numpyro_svae.program.priors.noise_priors import NoisePrior
from numpyro_svae.program.run.normals import NormalRows

__all__ = ["ExpectedSpread", "Spread", "SpreadPrior", "members_of", "read_spread"]

SpreadPrior = NoisePrior | JointPrior
Values = dict[str, Any]


class ExpectedSpread(NamedTuple):
    """What is expected of the residuals of a population.

    :param precision: of the rows, ``(..., R, L, L)``, or of their entries, ``(..., R,
        L, 1)``.
    :param gap: by how much the expectation of ``log|Sigma|`` is more than the log
        determinant of the inverse of this, ``(..., R)``, with what a location of the
        same block adds.
    :param location: what the block adds to the location, ``(..., R, L)``.
    """

    precision: Array
    gap: Array | float = 0.0
    location: Array | float = 0.0


class KnownSpread(NamedTuple):
    """A covariance that is known.

    :param rows: the distribution of the site at the plain values.
    """

    rows: NormalRows

    def expected(self, blocks: Any, moments: Any) -> ExpectedSpread:
        """The moments, which depend on no block."""
        return ExpectedSpread(self.rows.precision)

    def at(self, blocks: Any, values: Values) -> tuple[Any, Any]:
        """What is added to the location, and the covariances."""
        return 0.0, self.rows.covariance


class PrecisionSpread(NamedTuple):
    """A precision for each entry: the product of those of some sites.

    :param entries: which entry of each site it has, one after the other, ``(..., R,
        L)``.
    :param rows: the distribution where all of the precisions are one. Entries of a row
        that are not independent have the same.
    """

    entries: tuple[Array, ...]
    rows: NormalRows

    def expected(self, blocks: Any, moments: Any) -> ExpectedSpread:
        """The moments, from those of the blocks, which are independent."""
        mean, gap = jnp.ones(()), jnp.zeros(())
        for own, entries in zip(moments, self.entries):
            part = jnp.ravel(-own.rate)[entries]
            log_part = jnp.ravel(own.concentration)[entries]
            mean, gap = mean * part, gap + jnp.sum(jnp.log(part) - log_part, -1)
        return ExpectedSpread(mean[..., None] * self.rows.precision, gap)

    def at(self, blocks: Any, values: Values) -> tuple[Any, Any]:
        """What is added to the location, and the covariances."""
        covariance = np.asarray(self.rows.covariance)
        for block, entries in zip(blocks, self.entries):
            found = np.ravel(block.precisions(values[block.name]))
            index = np.clip(entries, 0, len(found) - 1)
            covariance = covariance / found[index][..., None]
        return 0.0, covariance


class MatrixSpread(NamedTuple):
    """A covariance for each row, from an inverse-Wishart site or with a location.

    :param members: which member of the batch each row has, ``(..., R)``; None without a
        batch.
    :param scale: what the covariance is multiplied by, ``(..., R)``.
    :param regressor: what the weight of the block is multiplied by, ``(..., R, M)``.
    """

    members: Array | None
    scale: Array
    regressor: Array

    def expected(self, blocks: Any, moments: Any) -> ExpectedSpread:
        """The moments, from those of the block."""
        (block,), (moments,) = blocks, moments
        if self.members is not None:
            moments = jax.tree.map(lambda leaf: leaf[self.members], moments)
        found: ExpectedRegression
        if block.part == "both":
            found = block.regression(moments, None)
        else:
            found = nothing_learnt(block.noise(moments, block.dim))
        tril, u = jnp.linalg.cholesky(found.covariance), self.regressor
        gap = found.log_det - 2 * log_diagonal(tril)
        squares = jnp.einsum("...m,...mn,...n->...", u, found.excess, u)
        precision = inverse_from_tril(tril) / self.scale[..., None, None]
        location = jnp.einsum("...lm,...m->...l", found.weight, u)
        return ExpectedSpread(precision, gap + squares / self.scale, location)

    def at(self, blocks: Any, values: Values) -> tuple[Any, Any]:
        """What is added to the location, and the covariances of the rows."""
        (block,) = blocks
        if block.part == "both":
            weight, cov = block.pair(values)
        else:
            cov = block.covariance_at(values, block.dim)
            weight = np.zeros((*cov.shape[:-1], 0))
        if self.members is not None:
            index = np.clip(self.members, 0, len(cov) - 1)
            weight, cov = weight[index], cov[index]
        location = np.einsum("...lm,...m->...l", weight, np.asarray(self.regressor))
        return location, np.asarray(self.scale)[..., None, None] * cov


Spread = KnownSpread | PrecisionSpread | MatrixSpread


def read_spread(rows: Callable[[Values], NormalRows], blocks: Any) -> Spread:
    """Read the covariance of a population.

    :param rows: shows the distribution at values of the blocks, which have unit noise
        where none are given.
    :param blocks: what holds the covariance; none if it is known.
    """
    if not blocks:
        return KnownSpread(rows({}))
    plain = rows({})
    if all(block.by_entry for block in blocks):
        entries = tuple(_entries(rows, plain, block) for block in blocks)
        return PrecisionSpread(entries, plain)
    (block,) = blocks
    scale, members = plain.variance[..., 0], None
    if block.components is not None:
        marked = rows(block.plain_values())
        members = members_of(marked.variance[..., 0] / scale)
    origin = plain.loc[..., 0]
    shown = [
        rows(block.plain_values(m)).loc[..., 0] - origin for m in range(block.columns)
    ]
    empty = jnp.zeros((*origin.shape, 0), origin.dtype)
    return MatrixSpread(
        members, scale, jnp.concatenate([empty, *(x[..., None] for x in shown)], -1)
    )


def _entries(
    rows: Callable[[Values], NormalRows], plain: NormalRows, block: Any
) -> Array:
    """Which entry of a block of precisions each entry of a population has."""
    shape = block.batch_shape + block.features
    each = 1.0 + jnp.arange(math.prod(shape)).reshape(shape)
    marked = rows({block.name: block.of_precisions(each)})
    return members_of(plain.variance / marked.variance)


def members_of(marks: Array) -> Array:
    """Which member is seen, where each is multiplied by one more than its index."""
    return jnp.round(marks).astype(jnp.int32) - 1
