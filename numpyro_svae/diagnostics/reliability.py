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
    Fit,
    global_log_joint,
    guide_draw,
    sample_messages,
    total_log_prob,
)

__all__ = ["pareto_k_global", "pareto_k_joint"]

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
    names = fit.global_names
    if not names:
        return np.nan
    draw, (log_joint, _) = guide_draw(fit), global_log_joint(fit, num_particles)

    def log_weight(key: Array) -> Array:
        ours, theirs = random.split(key)
        sites, log_q = draw(ours)
        values = {name: sites[name]["value"] for name in sorted(names)}
        likelihood, log_prior = log_joint(theirs, values)
        return log_prior + jnp.sum(likelihood) - log_q

    return _k_hat(log_weight, key, num_samples)


def pareto_k_joint(fit: Fit, key: Array, num_samples: int) -> float:
    """Pareto k-hat of all latent sites together.

    :param fit: a guide that has read its model.
    :param key: random key.
    :param num_samples: number of weights.
    """
    draw = guide_draw(fit)

    def log_weight(key: Array) -> Array:
        ours, theirs = random.split(key)
        drawn, _ = draw(ours)
        replayed = replay(fit.model, drawn)
        sites = sample_messages(fit.trace(replayed, theirs, {}))
        return total_log_prob(sites.values()) - total_log_prob(drawn.values())

    return _k_hat(log_weight, key, num_samples)


def _k_hat(log_weight: Callable[[Array], Array], key: Array, count: int) -> float:
    """NumPyro's estimate for a program whose log density is the log weight.

    Where all weights are equal, so that the guide is exact, it would have no tail to
    fit; that is minus infinity.
    """
    compiled = jax.jit(log_weight)
    some = jax.vmap(compiled)(random.split(key, min(_CHUNK, count)))
    if jnp.ptp(some) <= _EXACT * (1 + jnp.max(jnp.abs(some))):
        return -np.inf

    def program() -> None:
        numpyro.factor("log_weight", compiled(numpyro.prng_key()))

    return psis_diagnostic(
        key, {}, program, lambda: None, num_particles=count, chunk_size=_CHUNK
    )
