# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Actions that are linear in the state, as a regulator has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.control.latent_agent import Policy
from numpyro_svae.control.tracker import gaussian_path
from numpyro_svae.forecasting.filter import FilterState

__all__ = ["Feedback"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["rule"],
    meta_fields=["stationary"],
)
@dataclass(frozen=True)
class Feedback(Policy):
    """The action ``gain_t x + offset_t`` at the mean of what is known of the state.

    :param rule: a pytree that has the ``gain`` ``(T, A, D)`` and ``offset`` ``(T, A)``
        of each step, such as :class:`Regulator`.
    :param stationary: whether each step is taken as the first of T, for systems and
        costs that do not change with time. If not, from the last one on, steps are
        taken as the last.

    **Example**

    .. code-block:: python

        cost = QuadraticCost(state, action, target=tracker.latent_goal(picture).mean)
        rule = solve_lqr(guide.get_posterior(params)["dynamics"], cost, 20)
        agent = LatentAgent(tracker, Feedback(rule), bounds=env.action_space)
    """

    rule: Any
    stationary: bool = True

    def begin(self) -> Array:
        """The number of steps so far."""
        return jnp.zeros((), int)

    def act(
        self, key: Array, belief: FilterState, memory: Array
    ) -> tuple[Array, Array]:
        """The action of the step."""
        _, marginal = gaussian_path(belief)
        last = self.rule.offset.shape[0] - 1
        step = 0 if self.stationary else jnp.minimum(memory, last)
        action = self.rule.gain[step] @ marginal.mean[0] + self.rule.offset[step]
        return action, memory + 1
