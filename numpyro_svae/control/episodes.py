# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Episodes, and how they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
import os
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Episode", "Recorder", "load_episodes", "observed", "save_episodes"]


class Episode(NamedTuple):
    """What an agent saw, did and got.

    :param observations: ``(T + 1, ...)``.
    :param actions: those between them, ``(T, ...)``.
    :param rewards: of the actions, ``(T,)``.
    :param terminated: whether the environment came to an end of its own.
    :param truncated: whether it was cut off by the environment. Neither, if the agent
        was not to act any longer.
    :param infos: what else the environment said with each observation, T + 1 of them.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool = False
    truncated: bool = False
    infos: tuple[dict[str, Any], ...] = ()

    @property
    def total(self) -> float:
        """Sum of the rewards."""
        return float(np.sum(self.rewards))

    @property
    def num_steps(self) -> int:
        """Number T of actions."""
        return len(self.actions)


def observed(observation: Any) -> np.ndarray:
    """An observation as an array of its own.

    :raises TypeError: if it is no array.
    """
    found: Any = None if isinstance(observation, Mapping) else np.array(observation)
    if found is None or found.dtype == object:
        parts = list(observation) if found is None else type(observation).__name__
        raise TypeError(
            f"An observation: found {type(observation).__name__} with {parts}; "
            "accepted is one array. Write gymnasium.wrappers.FlattenObservation(env), "
            "or an environment that puts what is of use into an array."
        )
    return found


class Recorder:
    """Writes an episode down.

    :param observation: the first one.
    :param info: what came with it.
    """

    def __init__(self, observation: Any, info: dict[str, Any]) -> None:
        self.observations, self.infos = [observed(observation)], [dict(info)]
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.terminated = self.truncated = False

    def add(self, action: Any, outcome: tuple) -> None:
        """Write down an action, and what the environment's ``step`` returned."""
        observation, reward, terminated, truncated, info = outcome
        self.actions.append(np.array(action))
        self.observations.append(observed(observation))
        self.rewards.append(float(reward))
        self.terminated, self.truncated = bool(terminated), bool(truncated)
        self.infos.append(dict(info))

    @property
    def ended(self) -> bool:
        """Whether the environment said so."""
        return self.terminated or self.truncated

    def episode(self) -> Episode:
        """The episode so far."""
        return Episode(
            np.stack(self.observations),
            np.stack(self.actions),
            np.array(self.rewards),
            self.terminated,
            self.truncated,
            tuple(self.infos),
        )


def save_episodes(path: str | os.PathLike, episodes: Iterable[Episode]) -> None:
    """Write episodes to a file of NumPy arrays (``.npz``), compressed.

    :param path: of the file.
    :param episodes: the episodes. Infos may have numbers, strings, arrays, and lists
        and dictionaries of these.
    :raises TypeError: if an info has anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    for i, episode in enumerate(episodes):
        for name in ("observations", "actions", "rewards"):
            arrays[f"{i}/{name}"] = getattr(episode, name)
        arrays[f"{i}/ended"] = np.array([episode.terminated, episode.truncated])
        arrays[f"{i}/infos"] = np.array(json.dumps(episode.infos, default=_plain))
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_episodes(path: str | os.PathLike) -> list[Episode]:
    """The episodes of a file that :func:`save_episodes` wrote."""
    found: list[Episode] = []
    with np.load(path) as file:
        while f"{len(found)}/ended" in file:
            parts = "observations", "actions", "rewards", "ended", "infos"
            seen, done, got, (over, cut), infos = (
                file[f"{len(found)}/{name}"] for name in parts
            )
            read = tuple(json.loads(str(infos), object_hook=_array))
            found.append(Episode(seen, done, got, bool(over), bool(cut), read))
    return found


def _plain(value: Any) -> Any:
    """What JSON has in the place of an array, or of a number of NumPy's."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        return {"dtype": value.dtype.str, "array": value.tolist()}
    raise TypeError(
        f"infos: found {value!r}, a {type(value).__name__}; accepted are numbers, "
        "strings, arrays, and lists and dictionaries of these. Leave it out with "
        "episode._replace(infos=())."
    )


def _array(found: dict[str, Any]) -> Any:
    if set(found) == {"dtype", "array"}:
        return np.array(found["array"], found["dtype"])[()]
    return found
