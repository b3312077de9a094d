# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of scales that are not conjugate: one more factor of their posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.program.priors.correlation_prior import CorrelationPrior
from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.probing import Prober

__all__ = ["FreePrior"]


@dataclass(frozen=True)
class FreePrior:
    """The prior of one block, whatever its density is.

    :param block: the block.
    """

    block: PrecisionPrior | CorrelationPrior

    above = ()
    picks = False
    is_free = True
    of_naturals = False

    def shown(self, sites: dict[str, Site]) -> Any:
        """The distribution of the site in a run."""
        return self.block.shown(sites)

    def bind(self, prober: Prober) -> Any:
        """Read the distribution, whose parameters may be ``numpyro.param``."""
        return self.shown(prober.program.sites(prober.plain_values()))

    def agrees(self, bound: Any, values: dict[str, Any], found: Any) -> bool:
        """Whether a run has the prior that it says: nothing latent is in it."""
        return True

    def prior(self, bound: Any, moments: dict[str, Any]) -> NaturalParameters:
        """Natural parameters of a member of the family that is like it."""
        return self.block.like(bound)

    def message(
        self, bound: Any, natural: Any, moments: dict[str, Any]
    ) -> NaturalParameters:
        """Natural parameters of the member that it is like at a posterior."""
        return self.block.message(natural, bound)

    def divergence(self, natural: Any, bound: Any, moments: dict[str, Any]) -> Array:
        """The divergence of a posterior, of the batch shape of the block."""
        kl = self.block.free_divergence(natural, bound)
        rank = len(self.block.batch_shape)
        return jnp.sum(kl, tuple(range(rank, kl.ndim)))
