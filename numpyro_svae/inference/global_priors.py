# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The priors of global blocks at the current expectations of other blocks."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters, natural_kl
from numpyro_svae.program.binding import Bound
from numpyro_svae.program.factors import Structure

__all__ = ["divergence", "expected_prior"]


def expected_prior(
    structure: Structure, bound: Bound, name: str, moments: dict[str, Any]
) -> NaturalParameters:
    """Natural parameters of the prior of a block, averaged over other blocks.

    :param structure: wiring of the program.
    :param bound: the program with its data.
    :param name: of the block.
    :param moments: of the blocks that the prior depends on, or of all.
    """
    population = structure.populations.get(name)
    if population is None:
        return bound.priors[name]
    return population.prior(bound.populations[name], moments)


def divergence(
    structure: Structure,
    bound: Bound,
    name: str,
    natural: NaturalParameters,
    moments: dict[str, Any],
) -> Array:
    """The divergence of a posterior from its prior, averaged over other blocks.

    :param natural: natural parameters of the posterior.
    :return: of the batch shape of the block.
    """
    population = structure.populations.get(name)
    if population is not None:
        return population.divergence(natural, bound.populations[name], moments)
    kl = natural_kl(natural, bound.priors[name])
    rank = len(structure.priors[name].batch_shape)
    return jnp.sum(kl, tuple(range(rank, kl.ndim)))
