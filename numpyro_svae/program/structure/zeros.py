# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Checks that a program may have zeros among the concentrations of a Dirichlet."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from numpyro_svae.families import DirichletNatural, NaturalParameters

__all__ = ["check_zeros", "with_zeros"]


def with_zeros(naturals: dict[str, NaturalParameters]) -> list[str]:
    """The Dirichlet blocks that have zeros among their concentrations."""
    return [
        name
        for name, natural in naturals.items()
        if isinstance(natural, DirichletNatural) and not np.all(natural.concentration)
    ]


def check_zeros(run: Callable[[], Any], names: Collection[str]) -> None:
    """Zeros among concentrations must pass the validation that the program has.

    :param run: runs the program, validated as it will be.
    :param names: the blocks that have zeros.
    :raises ValueError: naming them.
    """
    if not names:
        return
    try:
        run()
    except ValueError as error:
        if "Dirichlet distribution got invalid" not in str(error):
            return  # of something else, at stand-ins for the arguments
        found = " or ".join(f"'{name}'" for name in names)
        raise ValueError(
            f"Site {found}: found a Dirichlet with concentrations of zero, which "
            "NumPyro's validation refuses. Accepted: "
            "numpyro_svae.DirichletWithZeros(concentration), where these categories "
            "are impossible and stay so; positive concentrations; or a Dirichlet of "
            "the free entries, which the program puts among zeros."
        ) from error
