# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How well a guide stands in for the posterior: Pareto k-hat of its weights."""

from __future__ import annotations

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

from numpyro_svae.diagnostics.draws import AT_ONCE, weigh
from numpyro_svae.diagnostics.evidence import guide_draw, integrated, log_prob
from numpyro_svae.diagnostics.fit import Fit, sample_messages
from numpyro_svae.diagnostics.masks import with_priors
from numpyro_svae.diagnostics.programs import compiled, first_batch, in_batches
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.structure.factors import GaussianFactor

__all__ = ["has_densities", "pareto_k"]

_EXACT = 1e-5  # relative spread of weights that is rounding


def pareto_k(
    fit: Fit, key: Array, num_samples: int, num_particles: int, local: LocalPosterior
) -> tuple[float, float]:
    """Pareto k-hat of the global sites, and of all latent sites together.

    Of the former, local sites are integrated out of the weights. Both are of the same
    draws of the global sites.

    :param fit: a guide that has read its model.
    :param key: random key.
    :param num_samples: number of weights.
    :param num_particles: number of importance samples of local sites for each.
    :param local: what the guide has inferred of the local sites, of all data.
    :return: NaN where there are none, or a path has noise in directions that NumPyro
        has no density of.
    """
    if not has_densities(fit):
        return np.nan, np.nan
    known = local if fit.batch is None else None  # a batch is inferred with each draw
    size = min(AT_ONCE, num_samples)  # those left over would be compiled again
    found: list[tuple[Array, Array]] = []
    for own in random.split(key, (-(-num_samples // size), size)):
        found.append(_weights(fit, own, num_particles, known))
        if all(map(_flat, found[0])):
            break
    of_global, of_all = (jnp.concatenate(w)[:num_samples] for w in zip(*found))
    return _k_hat(of_global) if fit.global_names else np.nan, _k_hat(of_all)


class _Weights(NamedTuple):
    """Log weights in parts, draws first.

    :param shared: of the global sites.
    :param each: of the data.
    """

    shared: Array
    each: Array

    @property
    def total(self) -> Array:
        """Their sums, by draw."""
        return self.shared + jnp.sum(self.each.reshape(len(self.shared), -1), -1)


class _Drawn(NamedTuple):
    """Draws of all latent sites.

    :param weights: of them.
    :param values: of the global sites.
    :param log_q: density of these under the guide.
    """

    weights: _Weights
    values: dict[str, Array]
    log_q: Array


def _weights(
    fit: Fit, keys: Array, num_particles: int, local: LocalPosterior | None
) -> tuple[Array, Array]:
    """Log weights of some draws: of their global sites, and of all of them.

    :param local: the local posteriors, if they are known.
    """

    def draw(own: Fit) -> _Drawn:
        found: _Drawn = compiled(draw_weighed, own)(keys, local)
        return found

    def one_draw() -> dict[str, Array]:
        return jax.tree.map(lambda x: x[0], draw(first).values)

    def of(own: Fit) -> tuple[_Weights, _Weights]:
        weights, values, log_q = draw(own)
        if not values:
            return weights, weights
        each, log_prior = compiled(weigh, own, num_particles)(keys, values)
        priors = (jnp.sum(x.reshape(len(x), -1), -1) for x in log_prior.values())
        return _Weights(sum(priors, -log_q), each), weights

    first = first_batch(fit)
    if fit.global_names:
        integrated(first, one_draw)
    of_global, of_all = in_batches(fit, of)
    return of_global.total, of_all.total


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


def draw_weighed(fit: Fit, keys: Array, local: LocalPosterior | None = None) -> _Drawn:
    """Draws of all latent sites from the guide, with their weights.

    :param fit: the fit.
    :param keys: random keys, one for each.
    :param local: the local posteriors, if they are known.
    """
    return jax.vmap(partial(_draw_weighed, fit.knowing(local)))(keys)


def _draw_weighed(fit: Fit, key: Array) -> _Drawn:
    ours, theirs = random.split(key)
    drawn, log_q = guide_draw(fit, ours)
    values = {name: drawn[name]["value"] for name in sorted(fit.global_names)}
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
    return _Drawn(_Weights(shared, each), values, log_q)


def _flat(weights: Array) -> bool:
    """Whether all weights are equal, so that the guide is exact."""
    return bool(jnp.ptp(weights) <= _EXACT * (1 + jnp.max(jnp.abs(weights))))


def _k_hat(weights: Array) -> float:
    """NumPyro's estimate, for a program that hands it the log weights.

    Where all weights are equal there would be no tail to fit; that is minus infinity.
    """
    if _flat(weights):
        return -np.inf

    @custom_vmap
    def log_weight(key: Array) -> Array:
        return weights[0]

    @log_weight.def_vmap
    def _(size: int, batched: list[bool], keys: Array) -> tuple[Array, bool]:
        return weights, True

    def program() -> None:
        numpyro.factor("log_weight", log_weight(numpyro.prng_key()))

    count = len(weights)
    return psis_diagnostic(
        random.PRNGKey(0), {}, program, lambda: None, num_particles=count
    )
