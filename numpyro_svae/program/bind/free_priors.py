# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of scales that are not conjugate: one more factor of their posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import GammaNatural
from numpyro_svae.families.free_prior import closest_gamma, free_kl
from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.probing import Prober

__all__ = ["FreePrior"]


@dataclass(frozen=True)
class FreePrior:
    """The prior of one block, whatever its density is.

    :param block: the block.
    """

    block: PrecisionPrior

    above = ()
    picks = False

    def shown(self, sites: dict[str, Site]) -> Any:
        """The distribution of the site in a run."""
        return sites[self.block.name].fn

    def bind(self, prober: Prober) -> Any:
        """Read the distribution, whose parameters may be ``numpyro.param``."""
        return self.shown(prober.program.sites(prober.plain_values()))

    def agrees(self, bound: Any, values: dict[str, Any], found: Any) -> bool:
        """Whether a run has the prior that it says: nothing latent is in it."""
        return True

    def prior(self, bound: Any, moments: dict[str, Any]) -> GammaNatural:
        """Natural parameters of a Gamma that is like it."""
        return self.block.gamma_like(bound)

    def message(self, bound: Any, natural: GammaNatural) -> GammaNatural:
        """Natural parameters of the Gamma that it is like at a posterior."""
        return closest_gamma(self.block.log_density, natural, bound)

    def divergence(
        self, natural: GammaNatural, bound: Any, moments: dict[str, Any]
    ) -> Array:
        """The divergence of a posterior, of the batch shape of the block."""
        kl = free_kl(self.block.log_density, natural, bound)
        rank = len(self.block.batch_shape)
        return jnp.sum(kl, tuple(range(rank, kl.ndim)))
