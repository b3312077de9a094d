# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Agents act in environments with gymnasium's interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import copy
from typing import Any, Protocol

import numpy as np

from numpyro_svae.control.bounds import Bounds, actuator
from numpyro_svae.control.episodes import Episode, Recorder
from numpyro_svae.control.vector import run_side_by_side

__all__ = ["Agent", "RandomAgent", "aggregate", "run_episode", "run_episodes"]


class Agent(Protocol):
    """What chooses actions."""

    def reset(self, seed: int | None = None) -> None:
        """Get ready for a new episode.

        :param seed: of what is random from now on; None to go on as it is.
        """

    def act(self, observation: Any) -> Any:
        """The action to take after the next observation of the episode."""


class RandomAgent:
    """An agent of uniform actions.

    :param bounds: a Box of gymnasium, or a pair of lower and upper bounds.
    :param hold: how many steps an action is held, in the mean.
    :param seed: of the actions, until :meth:`reset` gives another one.
    :raises ValueError: if a bound is infinite.
    """

    def __init__(self, bounds: Any, hold: float = 1.0, seed: int = 0) -> None:
        self.bounds, self.hold = Bounds.of(bounds), hold
        if not self.bounds.finite or hold < 1:
            raise ValueError(
                f"bounds, hold: found {self.bounds} and {hold}; accepted are finite "
                "bounds, and at least 1."
            )
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Begin with another action."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._action: np.ndarray | None = None

    def act(self, observation: Any) -> np.ndarray:
        """The action ``(A,)``, whatever is seen."""
        if self._action is None or self._rng.random() < 1 / self.hold:
            self._action = self._rng.uniform(*self.bounds).astype(np.float32)
        return self._action


def run_episode(
    env: Any,
    agent: Agent,
    num_steps: int,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    scaled: bool = False,
) -> Episode:
    """Let an agent act until the environment ends the episode, or for some steps.

    :param env: an environment with ``reset`` and ``step`` as gymnasium has them. If it
        has an ``action_space``, actions must be in it.
    :param agent: chooses the actions.
    :param num_steps: the largest number of steps.
    :param seed: of the environment, for its ``reset``; the agent's is made of it. The
        same seed gives the same episode, bit for bit. None to go on as they are.
    :param options: for the ``reset`` of the environment.
    :param scaled: whether the agent's actions are between -1 and 1, and scaled to the
        bounds of ``env.action_space``. An episode has those of the agent.
    :raises TypeError: if observations are dictionaries, actions are no actions of the
        environment, or it is a vector of environments.
    """
    if hasattr(env, "num_envs"):
        raise TypeError(
            f"env: found a vector of {env.num_envs} environments; accepted is one. "
            "Write run_episodes(env, agent, num_episodes, num_steps)."
        )
    send = actuator(getattr(env, "action_space", None), scaled)
    record = Recorder(*env.reset(seed=seed, options=options))
    agent.reset(seed=None if seed is None else _other_seed(seed))
    for _ in range(num_steps):
        action = agent.act(record.observations[-1])
        record.add(action, env.step(send(action)))
        if record.ended:
            break
    return record.episode()


def run_episodes(
    env: Any,
    agent: Agent,
    num_episodes: int,
    num_steps: int,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    scaled: bool = False,
) -> list[Episode]:
    """Several episodes of an agent, in one environment or in a vector of them.

    In a vector of N environments N episodes go on at a time, each with a shallow copy
    of the agent, until all have come to their end. With a seed the episodes are those
    of one environment after another.

    :param env: an environment, or a vector of them, as gymnasium has them.
    :param agent: chooses the actions.
    :param num_episodes: number of episodes.
    :param num_steps: the largest number of steps of each.
    :param seed: of the first episode; each later one has the next number.
    :param options: for each ``reset`` of the environment.
    :param scaled: see :func:`run_episode`.
    """
    given: dict[str, Any] = {"options": options, "scaled": scaled}
    seeds = [None if seed is None else seed + i for i in range(num_episodes)]
    if not hasattr(env, "num_envs"):
        return [run_episode(env, agent, num_steps, seed=s, **given) for s in seeds]
    episodes: list[Episode] = []
    while len(episodes) < num_episodes:
        agents = [copy.copy(agent) for _ in range(env.num_envs)]
        first = None if seed is None else seed + len(episodes)
        for i, own in enumerate(agents):
            own.reset(seed=_other_seed(None if first is None else first + i))
        episodes += run_side_by_side(env, agents, num_steps, first, **given)
    return episodes[:num_episodes]


def _other_seed(seed: int | None) -> int:
    """Another seed: random numbers of the agent are not those of the environment."""
    entropy = None if seed is None else [seed, 1]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def aggregate(
    env: Any,
    fit: Callable[[list[Episode]], Agent],
    episodes: Sequence[Episode],
    *,
    num_rounds: int,
    episodes_per_round: int,
    num_steps: int,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    scaled: bool = False,
) -> Iterator[tuple[Agent, list[Episode]]]:
    """Fit, let the agent act, fit to what it saw as well, and so on.

    A model is only good where it has data, and an agent goes where its model promises
    much. Data from the agent itself correct such promises (Ross and Bagnell, *Agnostic
    system identification for model-based reinforcement learning*, ICML 2012).

    :param env: an environment, or a vector of them, as gymnasium has them.
    :param fit: maps all episodes so far to an agent.
    :param episodes: the first ones, such as those of random actions.
    :param num_rounds: number of agents.
    :param episodes_per_round: number of episodes of each of them.
    :param num_steps: the largest number of steps of an episode.
    :param seed: of the first episode of an agent; each later one has the next number.
    :param options: for each ``reset`` of the environment.
    :param scaled: see :func:`run_episode`.
    :return: in each round, the agent and its episodes.
    """
    episodes, sizes = list(episodes), (episodes_per_round, num_steps)
    given: dict[str, Any] = {"options": options, "scaled": scaled}
    for i in range(num_rounds):
        agent = fit(episodes)
        first = None if seed is None else seed + i * episodes_per_round
        new = run_episodes(env, agent, *sizes, seed=first, **given)
        episodes = [*episodes, *new]
        yield agent, new
