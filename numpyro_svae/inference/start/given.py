# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Starts of global posteriors that a user gives."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.families import DirichletNatural, GammaNatural, NaturalParameters
from numpyro_svae.program.gaussian_prior import GaussianPrior
from numpyro_svae.program.noise_priors import CovariancePrior, PrecisionPrior
from numpyro_svae.program.priors import Prior

__all__ = ["natural_of"]


def natural_of(
    block: Prior, given: dist.Distribution | NaturalParameters
) -> NaturalParameters:
    """Natural parameters of a distribution that a user gave as a start of a block."""
    if isinstance(given, NaturalParameters):
        return given
    if isinstance(block, GaussianPrior):
        return block.natural_of(given)
    while isinstance(given, dist.Independent):
        given = given.base_dist
    if isinstance(block, PrecisionPrior | CovariancePrior):
        return block.natural_of(given)
    if isinstance(given, dist.Dirichlet):
        return DirichletNatural(given.concentration)
    if isinstance(given, dist.Beta):
        counts = given.concentration1, given.concentration0
        return DirichletNatural(jnp.stack(counts, -1))
    if isinstance(given, dist.Gamma):
        return GammaNatural(given.concentration, given.rate)
    return given.natural_parameters
