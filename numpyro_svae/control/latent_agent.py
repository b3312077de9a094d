# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Agents that act on what they know of the latent state."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.control.bounds import Bounds
from numpyro_svae.control.episodes import observed
from numpyro_svae.control.tracker import Tracker
from numpyro_svae.forecasting.filter import FilterState

__all__ = ["LatentAgent", "Policy"]


class Policy:
    """What chooses an action by what is known; a pytree, so that it is compiled once.

    What it remembers from step to step is handed to it.
    """

    def begin(self) -> Any:
        """What it remembers when an episode begins, a pytree."""
        return ()

    def act(self, key: Array, belief: FilterState, memory: Any) -> tuple[Array, Any]:
        """The action to take ``(A,)``, and what it remembers then.

        :param key: random key.
        :param belief: a state of :func:`numpyro_svae.filter` for one sequence.
        :param memory: what it remembers.
        """
        raise NotImplementedError

    def check(self, memory: Any) -> None:
        """Raise an error if an action was not well chosen; outside of what is compiled.

        :param memory: what was remembered with the action.
        """


class LatentAgent:
    """An agent that follows the latent state, and acts on what it knows by a policy.

    :param tracker: follows the state.
    :param policy: chooses actions, such as :class:`RecedingHorizon` or
        :class:`Feedback`.
    :param bounds: of the actions, which are clipped to them: a Box of gymnasium, such
        as ``env.action_space``; a pair of lower and upper bounds, ``(A,)`` or numbers;
        None for no bounds.
    :param exploration: standard deviation of noise that is added to actions, ``(A,)``
        or a number.
    :param seed: of what is random, until :meth:`reset` gives another one.
    :raises ValueError: if bounds are not those of the actions.

    ``belief`` is what it knows: a state of :func:`numpyro_svae.filter`, or None before
    the first observation of an episode.
    """

    belief: FilterState | None

    def __init__(
        self,
        tracker: Tracker,
        policy: Policy,
        *,
        bounds: Any = None,
        exploration: Array | float = 0.0,
        seed: int = 0,
    ) -> None:
        self.tracker, self.policy = tracker, policy
        self.bounds = Bounds.of(bounds, tracker.num_actions)
        self.exploration = exploration
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Forget the episode so far.

        :param seed: of what is random from now on; None to go on as it is.
        """
        if seed is not None:
            self._key = random.key(seed)
        self.belief = None
        self._memory = self.policy.begin()
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def act(self, observation: Any) -> np.ndarray:
        """The action ``(A,)`` to take after the next observation of an episode."""
        seen = observed(observation)
        if self.belief is None or self._last is None:
            self.belief = self.tracker.begin(seen)
        else:
            self.belief = self.tracker.update(self.belief, *self._last, seen)
        self._key, key = random.split(self._key)
        given = self.exploration, self.bounds
        action, self._memory = _choose(
            self.policy, key, self.belief, self._memory, *given
        )
        self.policy.check(self._memory)
        self._last = seen, self._checked(action)
        return self._last[1]

    def _checked(self, action: Array) -> np.ndarray:
        found, shape = np.asarray(action), (self.tracker.num_actions,)
        if found.shape != shape or not np.isfinite(found).all():
            raise ValueError(
                f"policy: found the action {found}, of shape {found.shape}; accepted "
                f"are finite numbers of shape {shape}, which num_actions of the "
                "tracker says. Look at agent.belief for states that are not finite."
            )
        return found


@jax.jit
def _choose(
    policy: Policy,
    key: Array,
    belief: FilterState,
    memory: Any,
    exploration: Array | float,
    bounds: Bounds,
) -> tuple[Array, Any]:
    """An action of a policy with noise, within the bounds."""
    own, other = random.split(key)
    action, memory = policy.act(own, belief, memory)
    noise = random.normal(other, action.shape, action.dtype)
    return jnp.clip(action + exploration * noise, *bounds), memory
