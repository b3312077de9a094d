# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the names of a run stand for: each for one thing, and a plate for one size."""

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
    """The kinds of what has a name, and the sizes of plates.

    NumPyro refuses a second site of a name, but not a plate or a parameter that has the
    name of a site: in a trace it takes the place of the site.

    :param messages: what is there already, in another run: sizes are those of one.
    :param guide: the names of what a guide makes for itself.
    """

    def __init__(
        self, messages: Iterable[dict] = (), guide: Iterable[str] = ()
    ) -> None:
        self._kinds: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._guide = frozenset(guide)
        for message in messages:
            self._add_kind(message)

    def add(self, message: dict) -> None:
        """Take note of a message.

        :raises ValueError: if its name is that of something else, or of a plate of
            another size.
        """
        self._add_kind(message)
        if message["type"] != "plate":
            return
        name, (size, _) = message["name"], message["args"]
        if self._sizes.setdefault(name, size) != size:
            raise ValueError(
                f"Plate '{name}': found sizes {self._sizes[name]} and {size} in one "
                "run. Accepted: one size for all plates of a name; other data have a "
                "plate with a name of their own."
            )

    def _add_kind(self, message: dict) -> None:
        if message["type"] not in _KINDS:
            return
        name, kind = message["name"], _KINDS[message["type"]]
        if name in self._guide:
            raise ValueError(
                f"Name '{name}': found {kind}, and the guide makes something of that "
                f"name for itself. Accepted: another name, as 'my_{name}', or "
                "AutoSVAE(..., prefix=...), which names what the guide makes."
            )
        other = self._kinds.setdefault(name, kind)
        if other != kind:
            raise ValueError(
                f"Name '{name}': found {other} and {kind}. Accepted: a name of its own "
                f"for each, as '{name}_{message['type']}' for the latter."
            )
