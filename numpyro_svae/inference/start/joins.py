# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where independent blocks of weights and noise start.

A start is found with a joint prior that stands in for theirs, and handed to each block
as the statistics that it adds to its own prior.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import block_diag

from numpyro_svae.families import GaussianNatural, NaturalParameters
from numpyro_svae.families.matrices import inverse_from_tril
from numpyro_svae.families.regression import RegressionStandard
from numpyro_svae.program.priors.gaussian_prior import GaussianPrior
from numpyro_svae.program.priors.joins import Join
from numpyro_svae.program.priors.noise_priors import ExpectedNoise

__all__ = ["of_joint", "stand_in"]

Priors = dict[str, Any]


def stand_in(
    join: Join, priors: Priors, known: ExpectedNoise | None
) -> RegressionStandard:
    """A joint prior with the expectations of independent ones.

    :param priors: natural parameters of the priors, by block.
    :param known: the covariance, where the program gives it.
    """
    batch = () if join.components is None else (join.components,)
    if join.noise is not None:
        own = {b.name: b.moments(priors[b.name]) for b in join.noise.blocks}
        cov = join.noise.noise(own, None).covariance
    else:
        given: Any = known
        cov = jnp.mean(given.covariance.reshape(-1, join.dim, join.dim), 0)
    scale = jnp.trace(cov, axis1=-2, axis2=-1) / join.dim
    means, precisions = [], []
    for block in join.weights:
        natural = priors[block.name]
        mean = block.moments(natural).mean
        means.append(jnp.broadcast_to(mean, (*batch, *mean.shape[-2:])))
        rows = jnp.mean(_row_precisions(block, natural), -3)
        precisions.append(_to_batch(scale[..., None, None] * rows, batch))
    diagonal = block_diag
    for _ in batch:
        diagonal = jax.vmap(diagonal)
    df = jnp.full(batch, join.dim + 2.0)
    tril = jnp.linalg.cholesky((join.dim + 2.0) * cov)
    columns = jnp.linalg.cholesky(diagonal(*precisions))
    return RegressionStandard(jnp.concatenate(means, -1), columns, tril, df)


def _to_batch(x: Array, batch: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(x, (*batch, *x.shape[-2:]))


def _row_precisions(block: GaussianPrior, natural: GaussianNatural) -> Array:
    """The precision ``(..., D, M, M)`` of each row given the others."""
    if block.by_row:
        return natural.precision
    shape = (*block.batch_shape, block.dim, block.columns, block.dim, block.columns)
    full = natural.precision.reshape(shape)
    return jnp.moveaxis(jnp.diagonal(full, axis1=-4, axis2=-2), -1, -3)


def of_joint(
    block: Any,
    join: Join,
    priors: Priors,
    before: RegressionStandard,
    start: RegressionStandard,
) -> NaturalParameters:
    """Natural parameters of one block, from a start of the joint prior.

    :param block: the block.
    :param join: the join that it is in.
    :param before: the joint prior that the start was found with.
    :param start: that start.
    """
    scatter, old, columns, old_columns = (
        tril @ jnp.swapaxes(tril, -1, -2)
        for tril in (
            start.scale_tril,
            before.scale_tril,
            start.column_tril,
            before.column_tril,
        )
    )
    count, prior = start.df - before.df, priors[block.name]
    if join.noise is not None and block.part == "noise":
        return block.start(prior, join.noise.part(block, scatter - old), count)
    first = sum(b.columns for b in join.weights[: join.weights.index(block)])
    own = slice(first, first + block.columns)
    mean, seen = start.loc[..., own], (columns - old_columns)[..., own, own]
    precision = inverse_from_tril(start.scale_tril) * start.df[..., None, None]
    if join.components is not None and block.components is None:
        share = count / jnp.sum(count)
        mean = jnp.tensordot(share, mean, (0, 0))
        precision = jnp.tensordot(share, precision, (0, 0))
        seen = jnp.sum(seen, 0)
    return _updated(block, prior, mean, seen, precision)


def _updated(
    block: GaussianPrior, prior: Any, mean: Array, seen: Array, precision: Array
) -> GaussianNatural:
    if block.by_row:
        rows = jnp.diagonal(precision, axis1=-2, axis2=-1)
        total = prior.precision + rows[..., None, None] * seen[..., None, :, :]
        return GaussianNatural.from_mean(mean, total)
    size = block.dim * block.columns
    both = jnp.einsum("...ij,...mn->...imjn", precision, seen)
    total = prior.precision + both.reshape(*block.batch_shape, size, size)
    return GaussianNatural.from_mean(mean.reshape(*block.batch_shape, size), total)
