# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Messages that are kept from one step of SVI to the next.

They are mutable state of NumPyro's, beside the parameters. A step moves the parameters
a little, and so are the messages: sweeps that start where those of the last step ended
are few. They are kept by programs that see all of their data, and that no recognition
function speaks to. Where the data are others all the same, sweeps start at messages
that are not theirs, which takes more of them and is no error: a bound never falls.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.local.ascent import Ascent
from numpyro_svae.inference.local.found_messages import like_messages
from numpyro_svae.inference.local.sweep_messages import Messages
from numpyro_svae.inference.local.sweep_starts import Kept
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Structure

__all__ = ["KeptMessages"]


class KeptMessages:
    """The place where a program keeps its messages.

    :param state: mutable state of NumPyro's, or ``None`` where nothing is kept.
    """

    def __init__(self, state: dict[str, Any] | None) -> None:
        self._state = state

    @classmethod
    def of(
        cls,
        name: str,
        structure: Structure,
        program: Program,
        ascent: Ascent,
        bound: Bound,
        naturals: dict[str, NaturalParameters],
        potentials: dict[str, Any],
        messages: dict[str, dict],
    ) -> KeptMessages:
        """That of a program. Nothing is kept for data of other shapes.

        :param name: name of the mutable site.
        :param structure: the wiring.
        :param program: the program.
        :param ascent: how local posteriors are found.
        :param bound: the program with its data.
        :param naturals: natural parameters of the global blocks.
        :param potentials: what the recognition function says.
        :param messages: those of a run of the program.
        """
        if potentials or not _sees_all(messages):
            return cls(None)
        like = partial(like_messages, structure, program, ascent)
        found = jax.eval_shape(like, bound, naturals)
        if not jax.tree.leaves(found):
            return cls(None)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
        first = {"kept": Kept(nothing, jnp.array(False))}
        state = numpyro.primitives.mutable(name, first)
        return cls(state if _shapes(state) == _shapes(first) else None)

    @property
    def start(self) -> Kept | None:
        """Where the sweeps of the last step ended."""
        return None if self._state is None else self._state["kept"]

    def keep(self, messages: Messages) -> None:
        """Keep the messages of this step."""
        if self._state is not None:
            self._state["kept"] = Kept(messages, jnp.array(True))


def _sees_all(messages: dict[str, dict]) -> bool:
    """Whether no plate is a subsample."""
    plates = (m for m in messages.values() if m["type"] == "plate")
    return all(len(m["value"]) == m["args"][0] for m in plates)


def _shapes(state: dict[str, Any]) -> Any:
    return jax.tree.structure(state), list(map(jnp.shape, jax.tree.leaves(state)))
