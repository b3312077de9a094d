# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""When losses have stopped falling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Plateau", "finite_mean"]


@dataclass(frozen=True)
class Plateau:
    """Whether losses have stopped falling: an instance is a function of them.

    Losses are noisy, so means of windows are compared; steps that were left out as they
    are not finite do not count. It has no memory besides the
    losses themselves, so that a run that is resumed stops where it would have.

    :param window: number of steps that are averaged.
    :param patience: number of windows in a row without a new best one.
    :param min_delta: by how much a window must be lower to be a new best one.
    """

    window: int = 100
    patience: int = 5
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.window < 1 or self.patience < 1 or self.min_delta < 0:
            raise ValueError(
                f"window, patience, min_delta: found {self.window}, {self.patience} "
                f"and {self.min_delta}; accepted are at least 1, 1 and 0."
            )

    def __call__(self, losses: Any) -> bool:
        """Whether to stop after these losses, ``(S,)``."""
        count = len(losses) // self.window
        windows = np.reshape(losses[: count * self.window], (count, self.window))
        best, latest = np.inf, 0
        for index, mean in enumerate(map(finite_mean, windows)):
            if mean < best - self.min_delta:
                best, latest = mean, index
        return count - 1 - latest >= self.patience


def finite_mean(losses: Any) -> float:
    """Mean of the losses that are finite; NaN if there are none."""
    losses = np.asarray(losses)
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if finite.size else np.nan
