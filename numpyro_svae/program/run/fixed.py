# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sites and plates of a run that have their values, and data that have none."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from numpyro.handlers import substitute, uncondition

from numpyro_svae.program.run.names import Names

__all__ = ["Fixed", "Free"]


class Fixed(substitute):
    """NumPyro's ``substitute``, where plates are of as many members as are given.

    Of how many they are in the program is ``written`` among the ``kwargs`` of messages.

    :param fn: the program.
    :param data: values by name.
    :param names: what names stand for already.
    """

    def __init__(
        self,
        fn: Callable | None = None,
        *,
        data: dict[str, Any],
        names: Names | None = None,
    ) -> None:
        super().__init__(fn, data=data)
        self._names = names or Names()

    def process_message(self, msg: dict) -> None:
        """Give a site its value, and a plate its members.

        :raises ValueError: if a plate has two sizes, or a name is that of two things.
        """
        self._names.add(msg)
        super().process_message(msg)
        if msg["type"] != "plate":
            return
        name, (size, _) = msg["name"], msg["args"]
        if name in self.data:
            msg["kwargs"]["written"] = msg["args"]
            msg["args"] = size, len(msg["value"])


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
