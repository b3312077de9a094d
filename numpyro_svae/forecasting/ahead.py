# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What comes after a filtered state, one step of the model at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from jax import Array, lax, random
import jax.numpy as jnp

from numpyro_svae.diagnostics.fit import Fit
from numpyro_svae.forecasting.continuation import Continue
from numpyro_svae.forecasting.timeline import InTime, at_last
from numpyro_svae.program.run.known_starts import Starts
from numpyro_svae.shared_programs import quick_jit

if TYPE_CHECKING:
    from numpyro_svae.forecasting.filter import FilterState

__all__ = ["draws_ahead"]


@quick_jit
def draws_ahead(
    state: FilterState,
    key: Array,
    inputs: dict[str, Array],
    horizon: int,
    num_samples: int,
) -> dict[str, Array]:
    """Draws of the sites in time at the steps after a filtered state.

    Only the last states go from step to step, so that memory does not grow with what
    was filtered.

    :param state: the state.
    :param key: random key.
    :param inputs: by argument, its values at these steps, time leading.
    :param horizon: number H of steps.
    :param num_samples: number of paths.
    :return: by site, with ``num_samples`` leading and ``H`` in the place of time.
    """
    setup, times = state.setup, state.setup.times[1]

    def path(key: Array) -> dict[str, Array]:
        own, first, later = random.split(key, 3)
        values = setup.guide._sample_globals(own, state.params)
        states = _last_states(state, first)

        def step(carry: tuple, now: tuple) -> tuple[tuple, dict[str, Array]]:
            states, last = carry
            key, new = now
            (args, kwargs), last = setup.window(last, state.fixed, new)
            fit = Fit(setup.guide.model, setup.guide, state.params, args, kwargs)
            model = Starts(fit.model, setup.guide.structure.scans, states)
            run = Continue(model, states, fit.known_parts)
            messages = fit.trace(run, key, values)
            moved = {
                chain.first: at_last(messages[name]["value"], chain.axis, None)
                for name, chain in setup.chains.items()
            }
            moved = {name: x.astype(states[name].dtype) for name, x in moved.items()}
            found = {n: _second(messages[n]["value"], t) for n, t in times.items()}
            return (moved, last), found

        steps = random.split(later, horizon), inputs
        return lax.scan(step, (states, state.last), steps, horizon)[1]

    found = jax.vmap(path)(random.split(key, num_samples))
    return {n: jnp.moveaxis(x, 1, 1 + _axis(times[n])) for n, x in found.items()}


def _last_states(state: FilterState, key: Array) -> dict[str, Array]:
    """A draw of the states of the chains, by the site that begins each."""
    chains, marginals = state.setup.chains, state.marginals
    keys = random.split(key, len(chains))
    return {
        chain.first: chain.as_written(marginals[name].sample(own))
        for own, (name, chain) in zip(keys, chains.items())
    }


def _axis(time: InTime) -> int:
    return int(time.axis or 0)


def _second(value: Any, time: InTime) -> Array:
    """The value at the second of two steps."""
    return jnp.take(value, 1 - time.lag, _axis(time))
