# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the names of a run stand for: each for one thing."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Names"]

_KINDS = {
    "sample": "a sample site",
    "deterministic": "a deterministic site",
    "plate": "a plate",
    "param": "a parameter",
    "mutable": "a mutable state",
}


class Names:
    """The kinds of what has a name.

    NumPyro refuses a second site of a name, but not a plate or a parameter that has the
    name of a site: in a trace it takes the place of the site.

    :param messages: what is there already.
    """

    def __init__(self, messages: Iterable[dict] = ()) -> None:
        self._kinds: dict[str, str] = {}
        for message in messages:
            self.add(message)

    def add(self, message: dict) -> None:
        """Take note of a message.

        :raises ValueError: if its name is that of something else.
        """
        if message["type"] not in _KINDS:
            return
        name, kind = message["name"], _KINDS[message["type"]]
        other = self._kinds.setdefault(name, kind)
        if other != kind:
            raise ValueError(
                f"Name '{name}': found {other} and {kind}. Accepted: a name of its own "
                f"for each, as '{name}_{message['type']}' for the latter."
            )
