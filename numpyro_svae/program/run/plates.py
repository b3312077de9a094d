# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Plates and parameters of one run of a program, for others to share."""

from __future__ import annotations

from contextlib import ExitStack
from math import isclose
from numbers import Real
from typing import Any

import numpy as np
from numpyro import plate
from numpyro.handlers import scale

from numpyro_svae.program.run.agreement import fits
from numpyro_svae.program.run.fixed import Fixed

__all__ = ["Plates", "check_shape", "own_scale", "shared_values"]


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

    def around(self, frames: tuple, entries: int = 0) -> ExitStack:
        """A context in which the plates of a site are open.

        :param frames: the plates, as they are read.
        :param entries: how many dimensions to the right of these are read as event.
        """
        stack = ExitStack()
        for frame in frames:
            if frame.name not in self.open:
                message = self.messages[frame.name]
                with Fixed(data={frame.name: message["value"]}):
                    self.open[frame.name] = plate(
                        frame.name, *message["args"], dim=frame.dim - entries
                    )
            stack.enter_context(self.open[frame.name])
        return stack

    def around_guide(self, site: Any, entries: int = 0) -> ExitStack:
        """A context for what the guide samples at a site: its plates and own scale.

        Data that count several times count so with their latent sites.
        """
        own = own_scale(site.scale, site.frames, self.messages)
        stack = self.around(site.frames, entries)
        if not (isinstance(own, Real) and isclose(own, 1.0)):
            stack.enter_context(scale(scale=own))
        return stack


def check_shape(name: str, fn: Any, value: Any, frames: tuple) -> None:
    """An observed value must have the shape that its distribution draws.

    :param name: of the site.
    :param fn: its distribution.
    :param value: its value.
    :param frames: the plates around it.
    :raises ValueError: naming the site, both shapes and the plates.
    """
    drawn, found = fn.shape(), np.shape(value)
    if not fits(drawn, found):
        plates = ", ".join(f"'{frame.name}' of {frame.size}" for frame in frames)
        among = f", with the plates {plates}," if plates else ""
        raise ValueError(
            f"Site '{name}': found data of shape {found}, where its distribution"
            f"{among} draws {drawn}. Accepted: data of the shape that is drawn. A "
            "plate that takes its size from the data, as numpyro.plate('data', len(y)) "
            "does, also takes held-out data of another size."
        )


def own_scale(total: Any, frames: tuple, plates: dict[str, dict]) -> Any:
    """The scale of a site besides that of its plates, from handlers.

    :param total: the scale of its log probability; None for one.
    :param frames: the plates around it.
    :param plates: the messages of all plates.
    """
    own = 1.0 if total is None else total
    for frame in frames:
        size, subsample = plates[frame.name]["args"]
        own = own * ((subsample or size) / size)
    return own


def shared_values(messages: dict[str, dict]) -> dict[str, Any]:
    """Values of the parameters, mutable states and plates of a run."""
    return {
        name: message["value"]
        for name, message in messages.items()
        if message["type"] in ("param", "mutable", "plate")
        and message["value"] is not None
    }
