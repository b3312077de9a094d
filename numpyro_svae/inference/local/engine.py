# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The numerical steps of the guide, each compiled as one.

``SVI.init`` runs the guide eagerly, where every operation would be compiled by itself.
"""

from __future__ import annotations

from typing import Any

from jax import Array
import numpyro.distributions as dist

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.global_priors import divergence
from numpyro_svae.inference.local.all_sites import infer_locals
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.ordered import as_given, in_order
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.shared_programs import quick_jit, shared_jit

__all__ = ["global_posteriors", "local_posterior"]

Naturals = dict[str, NaturalParameters]


@quick_jit
def local_posterior(
    structure: Structure,
    mean_field: bool,
    fixed_point: FixedPoint,
    bound: Bound,
    naturals: Naturals,
    potentials: dict[str, Any],
    examine: bool = False,
) -> LocalPosterior:
    """Infer the local sites at the posterior expectations of the globals."""
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    factors = ExpectedFactors(structure, bound, moments)
    return infer_locals(factors, potentials, mean_field, fixed_point, examine)


def global_posteriors(
    structure: Structure, naturals: Naturals, bound: Bound
) -> tuple[dict[str, dist.Distribution], dict[str, Array]]:
    """Posteriors of the global blocks, and their divergences from the priors."""
    return as_given(_global_posteriors(structure, naturals, bound))


@shared_jit
def _global_posteriors(structure: Structure, naturals: Naturals, bound: Bound) -> Any:
    posteriors = {n: p.posterior(naturals[n]) for n, p in structure.priors.items()}
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    divergences = {
        name: divergence(structure, bound, name, naturals, moments) for name in naturals
    }
    return in_order((posteriors, divergences))
