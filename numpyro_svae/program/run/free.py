# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A program that draws its data."""

from __future__ import annotations

from collections.abc import Callable, Set

from numpyro.handlers import uncondition

__all__ = ["Free"]


class Free(uncondition):
    """NumPyro's ``uncondition``, where some of the sites stay observed.

    :param fn: the program.
    :param kept: the sites that do, such as labels that are known.
    """

    def __init__(self, fn: Callable, kept: Set[str] = frozenset()) -> None:
        super().__init__(fn)
        self.kept = kept

    def process_message(self, msg: dict) -> None:
        """Draw an observed site."""
        if msg.get("name") not in self.kept:
            super().process_message(msg)
