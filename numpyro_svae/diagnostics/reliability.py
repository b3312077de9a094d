# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How well a guide stands in for the posterior: Pareto k-hat of its weights."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.handlers import replay
from numpyro.infer import psis_diagnostic

from numpyro_svae.diagnostics.evidence import (
    guide_draw,
    integrated,
    log_joint,
    total_log_prob,
)
from numpyro_svae.diagnostics.fit import Fit, sample_messages
from numpyro_svae.diagnostics.programs import compiled
from numpyro_svae.program.structure.factors import GaussianFactor

__all__ = ["has_densities", "pareto_k_global", "pareto_k_joint"]

_CHUNK = 50  # draws that are weighed at once
_EXACT = 1e-5  # relative spread of weights that is rounding


def pareto_k_global(
    fit: Fit, key: Array, num_samples: int, num_particles: int
) -> float:
    """Pareto k-hat of the global sites, local sites integrated out of the weights.

    :param fit: a guide that has read its model.
    :param key: random key.
    :param num_samples: number of weights.
    :param num_particles: number of importance samples of local sites for each.
    """
    if not fit.global_names or not has_densities(fit):
        return np.nan
    integrated(fit)  # is read with known values
    return _k_hat(compiled(_global_weight, fit, num_particles), key, num_samples)


def _global_weight(fit: Fit, key: Array, num_particles: int) -> Array:
    ours, theirs = random.split(key)
    sites, log_q = guide_draw(fit, ours)
    values = {name: sites[name]["value"] for name in sorted(fit.global_names)}
    likelihood, log_prior = log_joint(fit, theirs, values, num_particles)
    return sum(map(jnp.sum, log_prior.values()), jnp.sum(likelihood)) - log_q


def pareto_k_joint(fit: Fit, key: Array, num_samples: int) -> float:
    """Pareto k-hat of all latent sites together.

    :param fit: a guide that has read its model.
    :param key: random key.
    :param num_samples: number of weights.
    :return: NaN where a path has noise in directions that NumPyro has no density of.
    """
    if not has_densities(fit):
        return np.nan
    return _k_hat(compiled(_joint_weight, fit), key, num_samples)


def has_densities(fit: Fit) -> bool:
    """Whether all singular chains are distributions of ours, with noise in entries."""
    structure = fit.guide.structure
    singular = {
        factor.site: factor.support.in_entries
        for factor in structure.factors
        if isinstance(factor, GaussianFactor) and factor.support is not None
    }
    scanned = any(name in scan for scan in structure.scans for name in singular)
    return all(singular.values()) and not scanned


def _joint_weight(fit: Fit, key: Array) -> Array:
    ours, theirs = random.split(key)
    drawn, _ = guide_draw(fit, ours)
    sites = sample_messages(fit.trace(replay(fit.model, drawn), theirs, {}))
    return total_log_prob(sites.values()) - total_log_prob(drawn.values())


def _k_hat(log_weight: Callable[[Array], Array], key: Array, count: int) -> float:
    """NumPyro's estimate for a program whose log density is the log weight.

    Where all weights are equal, so that the guide is exact, it would have no tail to
    fit; that is minus infinity.
    """
    some = jax.vmap(log_weight)(random.split(key, min(_CHUNK, count)))
    if jnp.ptp(some) <= _EXACT * (1 + jnp.max(jnp.abs(some))):
        return -np.inf

    def program() -> None:
        numpyro.factor("log_weight", log_weight(numpyro.prng_key()))

    return psis_diagnostic(
        key, {}, program, lambda: None, num_particles=count, chunk_size=_CHUNK
    )
