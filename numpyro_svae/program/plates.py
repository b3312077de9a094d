# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Plates and parameters of one run of a program, for others to share."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from numpyro import plate
from numpyro.handlers import substitute

__all__ = ["Plates", "shared_values"]


class Plates:
    """The plates of a run of the model, opened again with the same indices.

    :param messages: the trace of the run.
    """

    def __init__(self, messages: dict[str, dict]) -> None:
        self.messages = {n: m for n, m in messages.items() if m["type"] == "plate"}
        self.open: dict[str, plate] = {}

    @property
    def indices(self) -> dict[str, Any]:
        """The subsample indices, by plate."""
        return {name: message["value"] for name, message in self.messages.items()}

    def around(self, frames: tuple) -> ExitStack:
        """A context in which the plates of a site are open."""
        stack = ExitStack()
        for frame in frames:
            if frame.name not in self.open:
                message = self.messages[frame.name]
                with substitute(data={frame.name: message["value"]}):
                    self.open[frame.name] = plate(
                        frame.name, *message["args"], dim=frame.dim
                    )
            stack.enter_context(self.open[frame.name])
        return stack


def shared_values(messages: dict[str, dict]) -> dict[str, Any]:
    """Values of the parameters and plates of a run."""
    return {
        name: message["value"]
        for name, message in messages.items()
        if message["type"] in ("param", "plate") and message["value"] is not None
    }
