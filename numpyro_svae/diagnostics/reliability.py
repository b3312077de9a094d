# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How well a guide stands in for the posterior: Pareto k-hat of its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jax import Array, random
from jax.custom_batching import custom_vmap
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.handlers import replay
from numpyro.infer import psis_diagnostic

from numpyro_svae.diagnostics.evidence import (
    guide_draw,
    integrated,
    log_joint,
    log_prob,
)
from numpyro_svae.diagnostics.fit import Fit, sample_messages
from numpyro_svae.diagnostics.masks import with_priors
from numpyro_svae.diagnostics.programs import compiled, first_batch, in_batches
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
    integrated(first_batch(fit))  # is read with known values

    def weigh(keys: Array) -> Array:
        def weights(own: Fit) -> _Weights:
            found: _Weights = compiled(_global_weights, own, num_particles)(keys)
            return found

        return _totals(in_batches(fit, weights))

    return _k_hat(weigh, key, num_samples)


class _Weights(NamedTuple):
    """Log weights in parts, draws first.

    :param shared: of the global sites.
    :param each: of the data.
    """

    shared: Array
    each: Array


def _totals(weights: _Weights) -> Array:
    each = weights.each.reshape(len(weights.shared), -1)
    return weights.shared + jnp.sum(each, -1)


def _global_weights(fit: Fit, keys: Array, num_particles: int) -> _Weights:
    def one(key: Array) -> _Weights:
        ours, theirs = random.split(key)
        sites, log_q = guide_draw(fit, ours)
        values = {name: sites[name]["value"] for name in sorted(fit.global_names)}
        each, log_prior = log_joint(fit, theirs, values, num_particles)
        return _Weights(sum(map(jnp.sum, log_prior.values()), -log_q), each)

    return jax.vmap(one)(keys)


def pareto_k_joint(fit: Fit, key: Array, num_samples: int) -> float:
    """Pareto k-hat of all latent sites together.

    :param fit: a guide that has read its model.
    :param key: random key.
    :param num_samples: number of weights.
    :return: NaN where a path has noise in directions that NumPyro has no density of.
    """
    if not has_densities(fit):
        return np.nan

    def weigh(keys: Array) -> Array:
        return _totals(in_batches(fit, lambda own: compiled(_joint_weights, own)(keys)))

    return _k_hat(weigh, key, num_samples)


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


def _joint_weights(fit: Fit, keys: Array) -> _Weights:
    return jax.vmap(partial(_joint_weight, fit))(keys)


def _joint_weight(fit: Fit, key: Array) -> _Weights:
    ours, theirs = random.split(key)
    drawn, _ = guide_draw(fit, ours)
    sites = sample_messages(fit.trace(replay(fit.model, drawn), theirs, {}))
    sites, drawn = with_priors(sites, drawn)
    plate = None if fit.batch is None else fit.batch.plate
    shared, each = jnp.zeros(()), jnp.zeros(())
    for sign, messages in (1, sites), (-1, drawn):
        for message in messages.values():
            frames = message["cond_indep_stack"]
            own = [frame.dim for frame in frames if frame.name == plate]
            term = sign * log_prob(message, own)
            if own:
                each = each + term.reshape(-1)
            else:
                shared = shared + term
    return _Weights(shared, each)


def _k_hat(weigh: Callable[[Array], Array], key: Array, count: int) -> float:
    """NumPyro's estimate for a program whose log density is the log weight.

    Where all weights are equal, so that the guide is exact, it would have no tail to
    fit; that is minus infinity.

    :param weigh: log weights of draws by some keys.
    :param key: random key.
    :param count: number of weights.
    """
    some = weigh(random.split(key, min(_CHUNK, count)))
    if jnp.ptp(some) <= _EXACT * (1 + jnp.max(jnp.abs(some))):
        return -np.inf

    @custom_vmap  # a chunk is one run of a program that is compiled already
    def log_weight(key: Array) -> Array:
        return weigh(key[None])[0]

    @log_weight.def_vmap
    def _(size: int, batched: list[bool], keys: Array) -> tuple[Array, bool]:
        return weigh(keys), True

    def program() -> None:
        numpyro.factor("log_weight", log_weight(numpyro.prng_key()))

    return psis_diagnostic(
        key, {}, program, lambda: None, num_particles=count, chunk_size=_CHUNK
    )
