# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sites and plates of a run that have their values, and data that have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import jax
import numpy as np
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.handlers import substitute, uncondition
from numpyro.primitives import Messenger

from numpyro_svae.program.run.agreement import fits
from numpyro_svae.program.run.names import Names

__all__ = ["Fixed", "Free", "OwnState", "check_given"]


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

        :raises ValueError: if a plate has two sizes, a name is that of two things, or a
            value has not the shape of its site.
        """
        self._names.add(msg)
        super().process_message(msg)
        _in_body(msg, self.data, self._names)
        if msg["type"] == "sample" and msg["name"] in self.data:
            check_given(msg["name"], msg["fn"].shape(), np.shape(msg["value"]))
        if msg["type"] == "plate" and msg["name"] in self.data:
            _sized(msg)


class OwnState(Messenger):
    """A run in which networks write into copies of their states: it is not the last."""

    def postprocess_message(self, msg: dict) -> None:
        """Copy a state, when all handlers have seen it."""
        if msg["type"] == "mutable" and msg["value"] is not None:
            msg["value"] = jax.tree.map(lambda leaf: leaf, msg["value"])


def _in_body(msg: dict, data: Mapping[str, Any], names: Names) -> None:
    """The body of a scan opens plates with the members that are given, where NumPyro
    draws others at each step."""
    if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
        body, *rest = msg["args"]
        msg["args"] = _OpenPlates(body, data, names), *rest


class _OpenPlates(Messenger):
    """A body of a scan whose plates have the members that are given."""

    def __init__(self, fn: Callable, data: Mapping[str, Any], names: Names) -> None:
        super().__init__(fn)
        self.data, self.names = data, names

    def process_message(self, msg: dict) -> None:
        self.names.add(msg)
        if msg["type"] == "plate" and msg["name"] in self.data:
            msg["value"] = self.data[msg["name"]]
            _sized(msg)


def _sized(msg: dict) -> None:
    """A plate is as large as its members are many, and tells what is written."""
    msg["kwargs"].setdefault("written", msg["args"])
    msg["args"] = msg["args"][0], len(msg["value"])


def check_given(name: str, drawn: tuple[int, ...], found: tuple[int, ...]) -> None:
    """A latent site must have the shape of the value that it is given.

    :param name: of the site.
    :param drawn: the shape that its distribution draws.
    :param found: that of the value.
    :raises ValueError: naming the site and both shapes.
    """
    if not fits(drawn, found):
        raise ValueError(
            f"Site '{name}': found a prior of shape {drawn}, and the guide was set up "
            f"with one of shape {found}. Accepted: arguments with which global sites "
            "have the same shape; for others, a guide of their own. A site with a "
            "member for each datum is local if it is a vector, as Normal(loc, scale)"
            ".to_event(1) with loc of shape (..., 1); of numbers, the members are "
            "those of the data that the guide was set up with."
        )


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
