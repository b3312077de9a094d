# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The options of how local posteriors are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.fixed_point import FixedPoint

__all__ = ["Ascent", "check_refine"]


@dataclass(frozen=True)
class Ascent:
    """How local posteriors are found.

    :param mean_field: whether coupled sites are made independent under the guide.
    :param fixed_point: how many sweeps there are, and when they end.
    :param rule: how expectations of what is not conjugate are taken.
    :param refine: the most sweeps for vectors that a recognition function speaks to.
    """

    mean_field: bool
    fixed_point: FixedPoint
    rule: Rule
    refine: int


def check_refine(sweeps: Any) -> int:
    """A number of sweeps after a recognition function.

    :raises ValueError: if it is none.
    """
    if isinstance(sweeps, int) and sweeps >= 0:
        return sweeps
    raise ValueError(
        f"refine: found {sweeps!r}; accepted is a number of sweeps after the "
        "recognition function, zero for none."
    )
