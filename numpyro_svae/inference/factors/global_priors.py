# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The priors of global blocks at the current expectations of other blocks."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters, natural_kl
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.structure.factors import Structure

__all__ = ["divergence", "expected_prior"]


def expected_prior(
    structure: Structure,
    bound: Bound,
    name: str,
    moments: dict[str, Any],
    natural: NaturalParameters | None = None,
) -> NaturalParameters:
    """Natural parameters of the prior of a block, averaged over other blocks.

    A prior that is not conjugate has those of the member of the family that it is like.

    :param structure: wiring of the program.
    :param bound: the program with its data.
    :param name: of the block.
    :param moments: of the blocks that the prior depends on, or of all.
    :param natural: the posterior at which it is to be like it; None for somewhere.
    """
    population = structure.populations.get(name)
    if population is None:
        return bound.priors[name]
    known = bound.populations[name]
    if natural is not None and population.is_free:
        return population.message(known, natural, moments)
    return population.prior(known, moments)


def divergence(
    structure: Structure,
    bound: Bound,
    name: str,
    naturals: dict[str, NaturalParameters],
    moments: dict[str, Any],
) -> Array:
    """The divergence of a posterior from its prior, averaged over other blocks.

    :param naturals: natural parameters of the posteriors of all blocks.
    :param moments: their moments.
    :return: of the batch shape of the block.
    """
    population = structure.populations.get(name)
    if population is not None:
        given = naturals if population.of_naturals else moments
        return population.divergence(naturals[name], bound.populations[name], given)
    kl = natural_kl(naturals[name], bound.priors[name])
    rank = len(structure.priors[name].batch_shape)
    return jnp.sum(kl, tuple(range(rank, kl.ndim)))
