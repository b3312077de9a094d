# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Episodes of agents in environments with gymnasium's interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ["Agent", "Episode", "aggregate", "run_episode"]


class Agent(Protocol):
    """What chooses actions."""

    def reset(self) -> None:
        """Get ready for a new episode."""

    def act(self, observation: Any) -> Any:
        """The action to take after the next observation of the episode."""


class Episode(NamedTuple):
    """What an agent saw, did and got.

    :param observations: ``(T + 1, ...)``.
    :param actions: those between them, ``(T, ...)``.
    :param rewards: of the actions, ``(T,)``.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray

    @property
    def total(self) -> float:
        """Sum of the rewards."""
        return float(np.sum(self.rewards))


def run_episode(
    env: Any, agent: Agent, num_steps: int, *, seed: int | None = None
) -> Episode:
    """Let an agent act until the environment ends the episode, or for some steps.

    :param env: an environment with ``reset`` and ``step`` as gymnasium has them.
    :param agent: chooses the actions.
    :param num_steps: the largest number of steps.
    :param seed: of the environment, to be handed to its ``reset``.
    """
    observation, _ = env.reset(seed=seed)
    agent.reset()
    observations, actions, rewards = [np.asarray(observation)], [], []
    for _ in range(num_steps):
        actions.append(np.asarray(agent.act(observation)))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(np.asarray(observation))
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return Episode(np.stack(observations), np.stack(actions), np.array(rewards))


def aggregate(
    env: Any,
    fit: Callable[[list[Episode]], Agent],
    episodes: Sequence[Episode],
    *,
    num_rounds: int,
    episodes_per_round: int,
    num_steps: int,
) -> Iterator[tuple[Agent, list[Episode]]]:
    """Fit, let the agent act, fit to what it saw as well, and so on.

    A model is only good where it has data, and an agent goes where its model promises
    much. Data from the agent itself correct such promises (Ross and Bagnell, *Agnostic
    system identification for model-based reinforcement learning*, ICML 2012).

    :param env: an environment with ``reset`` and ``step`` as gymnasium has them.
    :param fit: maps all episodes so far to an agent.
    :param episodes: the first ones, such as those of random actions.
    :param num_rounds: number of agents.
    :param episodes_per_round: number of episodes of each of them.
    :param num_steps: the largest number of steps of an episode.
    :return: in each round, the agent and its episodes.
    """
    episodes = list(episodes)
    for _ in range(num_rounds):
        agent = fit(episodes)
        new = [run_episode(env, agent, num_steps) for _ in range(episodes_per_round)]
        episodes = [*episodes, *new]
        yield agent, new
