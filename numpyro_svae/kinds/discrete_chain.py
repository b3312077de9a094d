# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A path of states: hidden Markov models."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jax import Array, random
from jax.nn import one_hot
import jax.numpy as jnp

from numpyro_svae.blocks import discrete_chain
from numpyro_svae.blocks.discrete_steps import finite_max
from numpyro_svae.distributions import DiscreteMarkovChain
from numpyro_svae.distributions.logit_chain import LogitChain
from numpyro_svae.inference.factors.chains import discrete_prior
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import DiscreteBelief, expected_logits
from numpyro_svae.inference.local.kinds import DiscreteKind
from numpyro_svae.program.read.rows import read_discrete_chain
from numpyro_svae.program.read.wiring import Wiring
from numpyro_svae.program.run.positions import per_path
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Factor

__all__ = ["DiscreteChainKind"]


class DiscreteChainKind(DiscreteKind):
    """``DiscreteMarkovChain``, as one site or spelled by a ``scan``."""

    name = "discrete_chain"
    distributions = (DiscreteMarkovChain,)
    chain = True

    def parameters(self, site: Site) -> dict[str, Any]:
        names = "initial_probs", "transition_probs"
        return {name: getattr(site.fn, name) for name in names}

    def size(self, site: Site) -> int:
        fn: Any = site.fn
        return fn.initial_probs.shape[-1]

    def read(self, wiring: Wiring, site: Site) -> list[Factor]:
        return read_discrete_chain(wiring, site)

    def read_observed(
        self, wiring: Wiring, site: Site, blocks: Collection[str]
    ) -> list[Factor]:
        return read_discrete_chain(wiring, site) if blocks else []

    def log_probs(self, fn: Any) -> Array:
        return fn.log_transition_probs

    def infer(
        self, factors: ExpectedFactors, name: str, message: Array
    ) -> DiscreteBelief:
        extent = factors.extent(name)
        # What is alike for all states would drown the rest of the log normaliser.
        message = message - finite_max(message)
        initial, steps = discrete_prior(factors, name)
        found = discrete_chain.smooth(initial, steps, message)
        moments = found.probs, found.transition_probs
        path = DiscreteMarkovChain(
            found.initial_probs,
            found.transition_probs,
            extent.positions[-1],
            validate_args=False,
        )
        terms = jnp.sum(expected_logits(found.probs, message), -1)
        terms = terms + discrete_chain.expected_log_density(initial, steps, *moments)
        possible = jnp.isfinite(found.log_normalizer)
        entropy = jnp.where(possible, found.log_normalizer - terms, 0.0)
        possible = per_path(1.0 * ~possible, extent) == 0
        return DiscreteBelief(*moments, per_path(entropy, extent), possible, path)

    def expected_prior(
        self, factors: ExpectedFactors, name: str, belief: DiscreteBelief
    ) -> Array:
        prior, moments = discrete_prior(factors, name), (belief.probs, belief.steps)
        value = discrete_chain.expected_log_density(*prior, *moments)
        return per_path(value, factors.extent(name))

    def draw_on(self, fn: Any, state: Array, key: Array) -> Array:
        first = one_hot(state, fn.num_states, dtype=fn.initial_probs.dtype)
        shape, least = (*state.shape, fn.num_steps), jnp.finfo(first.dtype).tiny
        uniforms = random.uniform(key, shape, first.dtype, minval=least)
        return discrete_chain.sample_paths(first, fn.transition_probs, uniforms)

    def log_steps(self, fn: Any, before: Array, after: Array) -> Array:
        table = fn.log_transition_probs
        table = jnp.broadcast_to(table, (*before.shape, *table.shape[-2:]))
        rows = jnp.take_along_axis(table, before[..., None, None], -2)[..., 0, :]
        return jnp.take_along_axis(rows, after[..., None], -1)[..., 0]

    def begin_with(self, fn: Any, belief: Array) -> DiscreteMarkovChain:
        return LogitChain(belief, fn.log_transition_probs, 2, validate_args=False)
