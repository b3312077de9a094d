# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Whether numbers are the same but for rounding, and shapes but for broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fits", "same"]


def same(found: Any, expected: Any) -> bool:
    """Equality up to broadcasting and float32 rounding."""
    try:
        found, expected = np.broadcast_arrays(found, expected)
    except ValueError:
        return False
    expected = expected + 0.0  # a whole number has no size that is small
    size = np.max(np.abs(expected), initial=1e-30)
    return bool(np.max(np.abs(found - expected), initial=0.0) < 1e-3 * size)


def fits(*shapes: tuple[int, ...]) -> bool:
    """Whether shapes broadcast."""
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True
