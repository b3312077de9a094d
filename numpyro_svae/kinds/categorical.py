# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A state at each position."""

from __future__ import annotations

import math
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.blocks.discrete_chain import normalize
from numpyro_svae.inference.factors.chains import log_probs
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import DiscreteBelief, expected_logits
from numpyro_svae.inference.local.kinds import DiscreteKind
from numpyro_svae.program.read.rows import read_latent_row
from numpyro_svae.program.read.wiring import Wiring
from numpyro_svae.program.run.positions import per_entry
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.run.steps import log_probs_of
from numpyro_svae.program.structure.factors import Factor

__all__ = ["CategoricalKind"]


class CategoricalKind(DiscreteKind):
    """``Categorical(probs)`` in plates or with ``to_event``."""

    name = "categorical"
    distributions = (dist.CategoricalProbs, dist.CategoricalLogits)

    def parameters(self, site: Site) -> dict[str, Any]:
        fn: Any = site.fn
        return {"probs": fn.probs}

    def size(self, site: Site) -> int:
        fn: Any = site.fn
        return fn.probs.shape[-1]

    def read(self, wiring: Wiring, site: Site) -> list[Factor]:
        return [read_latent_row(wiring, site)]

    def log_probs(self, fn: Any) -> Array:
        return log_probs_of(fn)

    def infer(
        self, factors: ExpectedFactors, name: str, message: Array
    ) -> DiscreteBelief:
        extent = factors.extent(name)
        logits = log_probs(factors, name) + message
        log_sum, probs = normalize(logits)
        possible = jnp.isfinite(log_sum)
        log_sum = jnp.where(possible, log_sum, 0.0)[..., None]
        possible = possible[..., None]
        flat = -math.log(probs.shape[-1])
        normal = jnp.where(possible, logits - log_sum, flat)
        marginal = dist.Categorical(logits=normal, validate_args=False)
        entropy = per_entry(-expected_logits(probs, normal), extent)
        possible = per_entry(1.0 * ~possible[..., 0], extent) == 0
        marginal = marginal.to_event(extent.extra)
        return DiscreteBelief(probs, None, entropy, possible, marginal)

    def expected_prior(
        self, factors: ExpectedFactors, name: str, belief: DiscreteBelief
    ) -> Array:
        prior = expected_logits(belief.probs, log_probs(factors, name))
        return per_entry(prior, factors.extent(name))
