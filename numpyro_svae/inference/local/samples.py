# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Draws that stand for a standard normal distribution of many dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["Samples"]


@dataclass(frozen=True)
class Samples:
    """Log likelihoods that are not conjugate are averaged over draws of a vector.

    Messages are made with the same draws in every sweep and at every datum, in pairs
    that mirror each other and are made white, so that they are exact for log
    likelihoods that are quadratic in the vector. The bound is evaluated at other
    samples, in each step new ones, and is a bound.

    :param num_samples: how many draws there are, an even number; no less than two for
        each dimension are taken.
    :param seed: of the draws.
    """

    num_samples: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples < 2 or self.num_samples % 2:
            raise ValueError(
                f"num_samples: found {self.num_samples}; accepted are even numbers of "
                "at least two: draws are in pairs that mirror each other."
            )

    def is_product(self, dim: int) -> bool:
        """Whether the draws stand for an expectation in a bound, which they never do:
        a posterior would be fitted to them."""
        del dim
        return False

    def points(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """The draws ``(S, D)``, and their equal weights ``(S,)``."""
        return _white(dim, max(self.num_samples // 2, dim), self.seed)


@cache
def _white(dim: int, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed).standard_normal((pairs, dim))
    left, _, right = np.linalg.svd(draws, full_matrices=False)
    white = np.sqrt(pairs) * (left @ right)
    return np.concatenate([white, -white]), np.full(2 * pairs, 0.5 / pairs)
