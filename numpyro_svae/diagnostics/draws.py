# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of a fit from its guide, its model and both, and their densities."""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
from jax import Array, lax, random
import jax.numpy as jnp
from numpyro.infer import Predictive

from numpyro_svae.diagnostics.evidence import (
    Integrated,
    guide_draw,
    integrated,
    log_joint,
)
from numpyro_svae.diagnostics.fit import Fit
from numpyro_svae.diagnostics.programs import compiled, first_batch
from numpyro_svae.program.run.fixed import Fixed, Free

__all__ = ["AT_ONCE", "Drawn", "draws_of", "integrated_at_draw", "weigh", "weigh_all"]

AT_ONCE = 50  # draws that are weighed by one run of a program


class Drawn(NamedTuple):
    """Draws of a fit, by site, and their densities; draws lead.

    :param draws: of the guide.
    :param log_q: log density of their global sites under the guide.
    :param predicted: data and deterministic sites at these draws.
    :param anew: data at their global sites alone, with local sites of their own.
    :param simulated: all sites, from the model.
    :param likelihood: log likelihood of each datum given the global sites.
    :param log_prior: log prior of the global sites, by site.
    """

    draws: dict[str, Array]
    log_q: Array
    predicted: dict[str, Array]
    anew: dict[str, Array]
    simulated: dict[str, Array]
    likelihood: Array
    log_prior: dict[str, Array]

    @property
    def densities(self) -> dict[str, Array]:
        """Of the draws of the global sites with all data, by name."""
        each = [self.likelihood, *self.log_prior.values()]
        parts = (jnp.sum(x.reshape(len(x), -1), -1) for x in each)
        lp = sum(parts, jnp.zeros(()))
        return {"lp": lp, "log_q": self.log_q, "log_weight": lp - self.log_q}


def draws_of(
    fit: Fit, keys: list[Array], num_samples: int, num_particles: int, anew: bool
) -> Drawn:
    """Draws of a fit, each kind by a program of its own, which its guide keeps.

    :param fit: the fit.
    :param keys: four random keys.
    :param num_samples: number of draws of each kind.
    :param num_particles: number of importance samples of local sites for each draw.
    :param anew: whether data with new local sites are drawn too.
    """
    draw_key, predict_key, prior_key, weigh_key = keys
    draws, log_q = _drawn(fit, draw_key, num_samples)
    return Drawn(
        draws,
        log_q,
        compiled(_predict, fit)(predict_key, draws),
        compiled(_anew, fit, num_samples)(predict_key, draws) if anew else {},
        compiled(_simulate, fit, num_samples)(prior_key),
        *weigh_all(fit, weigh_key, draws, num_particles),
    )


def integrated_at_draw(fit: Fit, key: Array, num_samples: int) -> Integrated:
    """What :func:`integrated` is, read at the first of the draws of :func:`draws_of`.

    :param fit: the fit.
    :param key: the first of the keys of these.
    :param num_samples: their number.
    """
    first = first_batch(fit)

    def draw() -> dict[str, Array]:
        draws, _ = _drawn(first, key, num_samples)
        return {name: draws[name][0] for name in sorted(fit.global_names)}

    return integrated(first, draw)


def _drawn(fit: Fit, key: Array, num_samples: int) -> tuple[dict[str, Array], Array]:
    found: tuple = compiled(_draw, fit)(random.split(key, num_samples))
    return found


def weigh_all(
    fit: Fit, key: Array, draws: dict[str, Array], num_particles: int
) -> tuple[Array, dict[str, Array]]:
    """What :func:`weigh` finds, of any number of draws.

    A program that weighs some of them is the same for all numbers.

    :param fit: the fit.
    :param key: random key.
    :param draws: values by site, draws leading.
    :param num_particles: number of importance samples of local sites for each.
    """
    values = {name: draws[name] for name in sorted(fit.global_names)}
    count = len(next(iter(draws.values())))
    size, program = min(AT_ONCE, count), compiled(weigh, fit, num_particles)
    pairs, parts = (random.split(key, count), values), []
    for start in range(0, count, size):
        own = min(start, count - size)  # the last ones have some of those before
        part = program(*_some(pairs, own, size))
        new = itemgetter(slice(start - own, None))
        parts.append(part if start == own else jax.tree.map(new, part))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@partial(jax.jit, static_argnums=2)
def _some(arrays: Any, start: int, size: int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), arrays)


def weigh(
    fit: Fit, keys: Array, values: dict[str, Array], num_particles: int
) -> tuple[Array, dict[str, Array]]:
    """Log likelihoods, and log priors by site, of draws of the global sites.

    :param fit: the fit.
    :param keys: random keys of the draws, or others.
    :param values: values by global site, draws leading.
    :param num_particles: number of importance samples of local sites for each.
    """

    def one(key: Array, values: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        own = random.fold_in(key, 2)  # the first two are those of a split
        return log_joint(fit, own, values, num_particles)

    return jax.vmap(one)(keys, values)


def _draw(fit: Fit, keys: Array) -> tuple[dict[str, Array], Array]:
    """Samples of the guide, and the log density of their global sites."""

    def one(key: Array) -> tuple[dict[str, Array], Array]:
        sites, log_q = guide_draw(fit, key)
        shown = {n: m for n, m in sites.items() if not m["infer"].get("is_auxiliary")}
        return {n: m["value"] for n, m in shown.items()}, log_q

    return jax.vmap(one)(keys)


def _predict(fit: Fit, key: Array, draws: dict[str, Array]) -> dict[str, Array]:
    """Data and deterministic sites at draws of the latent ones."""
    fresh = _run(fit, key, frozenset(), posterior_samples=draws)
    if not fit.known_parts & set(fresh):
        return fresh
    found = _run(fit, key, fit.known_parts, posterior_samples=draws)
    return {n: (fresh if n in fit.known_parts else found)[n] for n in fresh}


def _anew(
    fit: Fit, key: Array, draws: dict[str, Array], num_samples: int
) -> dict[str, Array]:
    """Data at draws of the global sites, with local sites from their priors."""
    values = {name: draws[name] for name in sorted(fit.global_names)}
    given: dict[str, Any] = {"posterior_samples": values}
    options = given if values else {"num_samples": num_samples}
    return _run(fit, key, frozenset(), **options)


def _simulate(fit: Fit, key: Array, num_samples: int) -> dict[str, Array]:
    """Draws of all sites from the model."""
    return _run(fit, key, frozenset(), num_samples=num_samples)


def _run(
    fit: Fit, key: Array, kept: frozenset[str], **options: Any
) -> dict[str, Array]:
    free = Fixed(Free(fit.model, kept), data=fit.params)
    with fit.apart():
        return Predictive(free, **options)(key, *fit.args, **fit.kwargs)
