# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A Gaussian vector at each position."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jax import Array
import numpyro.distributions as dist

from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import StateBelief
from numpyro_svae.inference.local.kinds import GaussianKind
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.read.gaussians import read_gaussian
from numpyro_svae.program.read.wiring import Wiring
from numpyro_svae.program.run.positions import per_entry
from numpyro_svae.program.run.sites import Site, gaussian_view, is_gaussian_vector
from numpyro_svae.program.structure.factors import Factor

__all__ = ["VectorKind"]


class VectorKind(GaussianKind):
    """``MultivariateNormal``, or ``Normal(loc, scale).to_event(1)``."""

    name = "gaussian"
    distributions = (dist.MultivariateNormal, dist.Normal)

    def parameters(self, site: Site) -> dict[str, Any] | None:
        view = gaussian_view(site)
        return None if view is None else view._asdict()

    def size(self, site: Site) -> int | None:
        return site.outer.event_shape[-1] if is_gaussian_vector(site) else None

    def read(self, wiring: Wiring, site: Site) -> list[Factor]:
        return [read_gaussian(wiring, site)]

    def read_observed(
        self, wiring: Wiring, site: Site, blocks: Collection[str]
    ) -> list[Factor]:
        return [read_gaussian(wiring, site)] if blocks else []

    def infer(
        self,
        factors: ExpectedFactors,
        name: str,
        message: GaussianPotential,
        own: GaussianPotential | None,
    ) -> StateBelief:
        extent = factors.extent(name)
        prior = factors.gaussian_prior(name) if own is None else messages.proper(own)
        found = condition(prior.loc, prior.covariance, message)
        mean, covariance, tril = found.mean, found.covariance, found.scale_tril
        marginal = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
        entropy = per_entry(marginal.entropy(), extent)
        marginal = marginal.to_event(extent.extra)
        return StateBelief(mean, covariance, None, entropy, marginal)

    def expected_prior(
        self, factors: ExpectedFactors, name: str, belief: StateBelief
    ) -> Array:
        factor = factors.own(name)
        given = factors.regression(factor), factors.regressor(factor)
        prior = messages.expected_response(*given, belief.mean, belief.covariance)
        return per_entry(prior, factors.extent(name))

    def scores(
        self, factors: ExpectedFactors, factor: Any, belief: StateBelief
    ) -> Array:
        return messages.expected_response(
            factors.regression(factor),
            factors.regressor(factor)[..., None, :],
            belief.mean[..., None, :],
            belief.covariance[..., None, :, :],
        )
