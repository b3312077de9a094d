# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Runs a model on from given states: its program is the law of the future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array, random
from jax.nn import one_hot
import jax.numpy as jnp
import numpyro
from numpyro.contrib.control_flow.scan import scan_wrapper
import numpyro.distributions as dist
from numpyro.handlers import uncondition
from numpyro.primitives import Messenger

from numpyro_svae.blocks import discrete_chain
from numpyro_svae.distributions import DiscreteMarkovChain, LinearGaussianChain
from numpyro_svae.program.wrappers import peel

__all__ = ["Continue", "chain_of", "continue_chain"]

Chain = DiscreteMarkovChain | LinearGaussianChain


class Continue(Messenger):
    """Runs a program whose chains begin at given states, and draws all observations.

    :param fn: the program.
    :param states: by the site of a chain, or of the first state of one that a scan
        spells: the state that it begins with.
    """

    def __init__(self, fn: Callable, states: dict[str, Array]) -> None:
        super().__init__(uncondition(fn))
        self.states = states

    def process_message(self, msg: dict) -> None:
        """Give chains their paths; observations in scans are hidden from handlers."""
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            body, *rest = msg["args"]
            msg["args"] = (uncondition(body), *rest)
        elif msg["type"] == "sample" and msg["name"] in self.states:
            state, chain = self.states[msg["name"]], chain_of(msg["fn"])
            if chain is not None:
                state = continue_chain(chain, state, numpyro.prng_key())
            msg["value"] = state


def chain_of(fn: Any) -> Chain | None:
    """The chain that a distribution is, in whatever it is wrapped."""
    base = peel(fn)[0] if isinstance(fn, dist.Distribution) else None
    return base if isinstance(base, Chain) else None


def continue_chain(chain: Chain, state: Array, key: Array) -> Array:
    """Draw a path that begins at a state, from the transitions of a chain.

    :param chain: the chain; what it says of its first state and of lengths is ignored.
    :param state: the first state, ``(...)`` or ``(..., D)``.
    :param key: random key.
    :return: of shape ``(..., T)`` or ``(..., T, D)``, the first state included.
    """
    if isinstance(chain, DiscreteMarkovChain):
        first = one_hot(state, chain.num_states, dtype=chain.initial_probs.dtype)
        shape, least = (*state.shape, chain.num_steps), jnp.finfo(first.dtype).tiny
        uniforms = random.uniform(key, shape, first.dtype, minval=least)
        return discrete_chain.sample_paths(first, chain.transition_probs, uniforms)
    free = LinearGaussianChain(
        state,
        chain.initial_cov,
        chain.transition_matrix,
        chain.transition_cov,
        inputs=chain.inputs,
        num_steps=chain.num_steps,
        validate_args=False,
    )
    shape = (1, *state.shape[:-1], *chain.event_shape)
    noise = random.normal(key, shape, state.dtype).at[..., 0, :].set(0.0)
    return free._paths(noise)[0]
