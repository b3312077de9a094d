# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of what is missing in the data, given what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.diagnostics.fit import Fit, read_fit, sample_messages
from numpyro_svae.diagnostics.programs import compiled, in_batches, inferred
from numpyro_svae.forecasting.continuation import Continue
from numpyro_svae.forecasting.course import draw_sites
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.run.wrappers import peel

__all__ = ["impute"]


def impute(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    rng_key: Array,
    *args: Any,
    num_samples: int = 1000,
    **kwargs: Any,
) -> dict[str, Array]:
    """Complete the data: draws of what the model masks, what it observes as it is.

    What is missing is what the model's masks (``numpyro.handlers.mask``, or ``.mask``
    on the distribution) leave out, at the end of sequences or in the midst of them, and
    what is stored there does not matter. The recognition function must mask its
    potential there too. Draws are from the model at global sites and states that are
    drawn from the guide, which sees the data on both sides of a gap.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param rng_key: random key.
    :param args: the arguments of the model, with data.
    :param num_samples: number of draws.
    :param kwargs: the keyword arguments of the model.
    :return: by observed site, its data with the gaps filled, ``num_samples`` leading.

    **Example**

    .. code-block:: python

        filled = ns.impute(model, guide, params, key, y, mask=seen)
        filled["y"].mean(0), filled["y"].std(0)
    """
    fit = read_fit(model, guide, params, args, kwargs, rng_key)

    def run(own: Fit) -> dict[str, Array]:
        completions = compiled(_completions, own, num_samples)
        found: dict[str, Array] = completions(rng_key, inferred(own))
        return found

    completed: dict[str, Array] = in_batches(fit, run)
    return completed


def _completions(
    fit: Fit, key: Array, local: LocalPosterior, num_samples: int
) -> dict[str, Array]:
    draw_key, run_key = random.split(key)
    draws = draw_sites(fit.knowing(local), draw_key, num_samples)
    given = {name: value[0] for name, value in draws.items()}
    messages = fit.trace(fit.model, run_key, given)
    observed = {n: m for n, m in sample_messages(messages).items() if m["is_observed"]}

    @jax.vmap
    def complete(key: Array, draw: dict[str, Array]) -> dict[str, Array]:
        drawn = fit.trace(Continue(fit.model, {}, fit.known_parts), key, draw)
        return {n: _filled(m, drawn[n]["value"]) for n, m in observed.items()}

    return complete(random.split(run_key, num_samples), draws)


def _filled(message: dict, drawn: Array) -> Array:
    """The data of a site where they count, and draws elsewhere."""
    fn, mask, _ = peel(message["fn"])
    if mask is None:
        return message["value"]
    mask = jnp.reshape(mask, mask.shape + (1,) * fn.event_dim)
    return jnp.where(mask, message["value"], drawn)
