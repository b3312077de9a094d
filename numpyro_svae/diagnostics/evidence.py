# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The likelihood of each datum given the global sites, local sites integrated out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from numpyro.handlers import block, replay, seed, substitute, trace

from numpyro_svae.guide import AutoSVAE

__all__ = ["global_names", "integrated_log_likelihood", "sample_sites"]


def global_names(guide: AutoSVAE) -> set[str]:
    """The global sites of a guide that has read its model."""
    return {site for prior in guide._wiring.priors.values() for site in prior.sites}


def sample_sites(messages: dict[str, dict]) -> dict[str, dict]:
    """The messages of sample sites."""
    return {n: m for n, m in messages.items() if m["type"] == "sample"}


def integrated_log_likelihood(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    args: tuple,
    kwargs: dict[str, Any],
    num_particles: int,
) -> tuple[Callable[[Array, dict[str, Array]], Array], tuple[str, ...]]:
    """A function that estimates ``log p(y_n | globals)``, and the plates of its data.

    Local sites are importance-sampled from their posterior *given the globals*, which
    a guide of the model with these globals finds. In conjugate models that posterior is
    exact, all weights are equal, and the estimate is exact from one sample on.

    :param model: the model.
    :param guide: its guide, that has read it.
    :param params: parameters.
    :param args: arguments of the model.
    :param kwargs: keyword arguments of the model.
    :param num_particles: number of importance samples.
    :return: a function of a random key and values of the global sites, whose result has
        a dimension for each plate that all local and observed sites are in; and the
        names of these plates.
    """
    names = global_names(guide)

    def given(fn: Callable) -> Callable:
        """A function of the values of the global sites, which nobody else sees."""

        def run(values: dict[str, Array], /, *args: Any, **kwargs: Any) -> Any:
            fixed = substitute(fn, data=values)
            hidden = block(fixed, hide_fn=lambda m: m.get("name") in names)
            return hidden(*args, **kwargs)

        return run

    def says(values: dict[str, Array], /, *args: Any, **kwargs: Any) -> Any:
        return {} if guide.recognition is None else guide.recognition(*args, **kwargs)

    local_model = given(model)
    local_guide = AutoSVAE(
        local_model,
        None if guide.recognition is None else says,
        prefix=guide.prefix,
        mean_field=guide.mean_field,
        fixed_point=guide.fixed_point,
    )
    latent = bool(guide._wiring.locals)
    plates: dict[int, str] = {}

    def log_weight(key: Array, values: dict[str, Array]) -> Array:
        ours, theirs = random.split(key)
        drawn: dict[str, dict] = {}
        with block():
            if latent:
                run = substitute(seed(local_guide, ours), data=params)
                drawn = sample_sites(trace(run).get_trace(values, *args, **kwargs))
            run = substitute(replay(seed(local_model, theirs), drawn), data=params)
            sites = sample_sites(trace(run).get_trace(values, *args, **kwargs))
        plates.update(_shared_plates(sites))
        log_p = [_sum_to(plates, message) for message in sites.values()]
        log_q = [_sum_to(plates, message) for message in drawn.values()]
        zero = jnp.zeros(())
        return sum(log_p, zero) - sum(log_q, zero)

    def estimate(key: Array, values: dict[str, Array]) -> Array:
        keys = random.split(key, num_particles)
        weights = jax.vmap(lambda key: log_weight(key, values))(keys)
        return logsumexp(weights, 0) - jnp.log(num_particles)

    start = guide._sample_globals(random.PRNGKey(0), params)
    log_weight(random.PRNGKey(0), start)  # reads the model, with concrete values
    return estimate, tuple(plates[dim] for dim in sorted(plates))


def _shared_plates(sites: dict[str, dict]) -> dict[int, str]:
    """The plates that all sites are in: their names by dimension."""
    frames = [
        {(frame.dim, frame.name) for frame in message["cond_indep_stack"]}
        for message in sites.values()
    ]
    return dict(set.intersection(*frames)) if frames else {}


def _sum_to(plates: dict[int, str], message: dict) -> Array:
    """Log probability of a site, summed over all dimensions but those of plates."""
    intermediates = message["intermediates"]
    arguments = (intermediates,) if intermediates else ()
    log_prob = message["fn"].log_prob(message["value"], *arguments)
    axes = [axis for axis in range(-log_prob.ndim, 0) if axis not in plates]
    return jnp.sum(log_prob, axis=axes)
