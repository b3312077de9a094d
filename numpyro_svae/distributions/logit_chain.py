# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A discrete Markov chain of which the logs of the transitions are given."""

from typing import Any

from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike

from numpyro_svae.distributions.discrete_markov_chain import DiscreteMarkovChain

__all__ = ["LogitChain"]


class LogitChain(DiscreteMarkovChain):
    """A chain that keeps the logs of transitions whose probabilities are too small.

    :param initial_probs: of the first state, shape ``(..., K)``.
    :param transition_logits: normalised logs of the transitions, shape
        ``(..., T - 1 or 1, K, K)``.
    :param num_steps: :math:`T`; needed where the transitions do not tell.
    """

    pytree_data_fields = ("transition_logits",)

    def __init__(
        self,
        initial_probs: ArrayLike,
        transition_logits: ArrayLike,
        num_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        logits = jnp.asarray(transition_logits)
        super().__init__(initial_probs, jnp.exp(logits), num_steps, **kwargs)
        self.transition_logits = logits

    @property
    def log_transition_probs(self) -> Array:
        """Logs of the transitions, as they were given."""
        return self.transition_logits
