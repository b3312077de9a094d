# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Random windows of sequences, as minibatches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["windows"]


def windows(
    data: Mapping[str, Sequence[Any]], length: int, batch_size: int, seed: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Random windows of sequences of different lengths, without end.

    Each window that there is comes as often as any other. Sequences that are shorter
    than a window have none, and are left out.

    :param data: by argument of the model, its sequences, each with time leading. What
        is between the steps, such as actions, is one shorter than what is at each, and
        has one less in a window too.
    :param length: number of steps of a window.
    :param batch_size: number of windows in a batch.
    :param seed: of the windows.
    :return: an iterator over batches for :func:`run_batches`, by argument,
        ``(batch_size, length or length - 1, ...)``.
    :raises ValueError: if sequences do not fit each other, or are all too short.

    **Example**

    .. code-block:: python

        data = {
            "y": [episode.observations for episode in episodes],
            "actions": [episode.actions for episode in episodes],
        }
        size = sum(map(len, data["y"])) // 25
        batches = windows(data, 25, 16)
        run_batches(svi, random.key(0), batches, 5000, constants={"size": size})
    """
    series = {name: [np.asarray(x) for x in each] for name, each in data.items()}
    steps, lags = _lengths(series)
    ends = np.cumsum(np.maximum(steps - length + 1, 0))  # of the windows of each
    if length < 2 or batch_size < 1 or ends[-1] == 0:
        raise ValueError(
            f"length, batch_size: found {length} and {batch_size}; accepted are a "
            f"length from 2 to {steps.max()}, the longest sequence, and at least 1."
        )
    return _draw(series, lags, ends, steps, (length, batch_size), seed)


def _draw(
    series: dict[str, list[np.ndarray]],
    lags: dict[str, int],
    ends: np.ndarray,
    steps: np.ndarray,
    sizes: tuple[int, int],
    seed: int,
) -> Iterator[dict[str, np.ndarray]]:
    rng, (length, batch_size) = np.random.default_rng(seed), sizes
    begins = ends - np.maximum(steps - length + 1, 0)
    while True:
        index = rng.integers(ends[-1], size=batch_size)
        which = np.searchsorted(ends, index, side="right")
        starts = index - begins[which]
        yield {
            name: np.stack(
                [each[i][t : t + length - lags[name]] for i, t in zip(which, starts)]
            )
            for name, each in series.items()
        }


def _lengths(
    series: dict[str, list[np.ndarray]],
) -> tuple[np.ndarray, dict[str, int]]:
    """Steps of each sequence, and by argument how many less it has."""
    found = {name: np.array([len(x) for x in each]) for name, each in series.items()}
    counts = {name: len(each) for name, each in found.items()}
    if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(
            f"data: found {counts} sequences; accepted is the same number for each "
            "argument, one or more."
        )
    steps = np.max(list(found.values()), 0)
    lags = {}
    for name, own in found.items():
        missing = np.unique(steps - own)
        if len(missing) > 1 or missing[0] > 1:
            raise ValueError(
                f"data: found sequences of lengths {own.tolist()} of '{name}', beside "
                f"{steps.tolist()}; accepted are as many steps, or one less in each."
            )
        lags[name] = int(missing[0])
    return steps, lags
