# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Episodes side by side, in a vector of environments as gymnasium has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numpyro_svae.control.bounds import actuator
from numpyro_svae.control.episodes import Episode, Recorder, observed

__all__ = ["run_side_by_side"]


def run_side_by_side(
    envs: Any,
    agents: Sequence[Any],
    num_steps: int,
    seed: int | None,
    options: dict[str, Any] | None,
    scaled: bool,
) -> list[Episode]:
    """An episode of each environment, until all have ended.

    What an environment does after its end, until the last one ends, is left out.

    :param envs: the environments.
    :param agents: one for each, which is ready.
    :param num_steps: the largest number of steps.
    :param seed: of the first environment; the others have the next numbers.
    :param options: for ``reset``.
    :param scaled: whether actions are scaled to the bounds.
    """
    send = actuator(envs.single_action_space, scaled)
    mode = _autoreset_mode(envs)
    observations, infos = envs.reset(seed=seed, options=options)
    observations = observed(observations)
    records = [Recorder(x, _own(infos, i)) for i, x in enumerate(observations)]
    sent: list[Any] = [None] * len(records)
    over = np.zeros(len(records), bool)
    for _ in range(num_steps):
        actions: dict[int, Any] = {}
        for i, record in enumerate(records):
            if not record.ended:
                actions[i] = agents[i].act(record.observations[-1])
                sent[i] = send(actions[i])
        if mode == "Disabled" and over.any():
            envs.reset(options={"reset_mask": over})
        observations, rewards, ends, cuts, infos = envs.step(np.stack(sent))
        over = np.logical_or(ends, cuts)
        for i, action in actions.items():
            seen, info = observations[i], _own(infos, i)
            if over[i] and mode == "SameStep":
                seen, info = info["final_obs"], info["final_info"]
            outcome = seen, rewards[i], ends[i], cuts[i], info
            records[i].add(action, outcome)
        if all(record.ended for record in records):
            break
    return [record.episode() for record in records]


def _autoreset_mode(envs: Any) -> str:
    """When environments that have ended begin again."""
    mode = envs.metadata.get("autoreset_mode", "NextStep")
    return getattr(mode, "value", mode)


def _own(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """The info of one environment."""
    found = {}
    for name, value in infos.items():
        there = infos.get(f"_{name}")
        if name.startswith("_") or (there is not None and not there[index]):
            continue
        found[name] = _own(value, index) if isinstance(value, dict) else value[index]
    return found
