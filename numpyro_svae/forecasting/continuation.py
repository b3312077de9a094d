# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Runs a model on from given states: its program is the law of the future."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpyro
from numpyro.contrib.control_flow.scan import scan_wrapper
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from numpyro_svae.inference.local.kinds import DiscreteKind
from numpyro_svae.program.run.fixed import Free
from numpyro_svae.program.run.kinds import LocalKind, kind_of
from numpyro_svae.program.run.scan_calls import args_of
from numpyro_svae.program.run.wrappers import peel

__all__ = ["Chain", "Continue", "chain_of", "hidden_laws"]


class Chain(NamedTuple):
    """A chain of a program.

    :param first: the site whose value begins it: its own, or that of the first state.
    :param axis: of time in the value of its site.
    :param lengths: of the sequences, if they are padded.
    :param number: whether its states are numbers in the program, and are read as
        vectors of dimension one.
    """

    first: str
    axis: int
    lengths: Array | None
    number: bool = False

    def as_written(self, state: Array) -> Array:
        """A state as the program has it."""
        return state[..., 0] if self.number else state


class Continue(Messenger):
    """Runs a program whose chains begin at given states, and draws all observations.

    :param fn: the program.
    :param states: by the site of a chain, or of the first state of one that a scan
        spells: the state that it begins with.
    :param kept: the observed sites that stay so: labels that are known in part.
    """

    def __init__(
        self, fn: Callable, states: dict[str, Array], kept: Set[str] = frozenset()
    ) -> None:
        super().__init__(Free(fn, kept))
        self.states, self.kept = states, kept

    def process_message(self, msg: dict) -> None:
        """Give chains their paths; observations in scans are hidden from handlers."""
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            body, *rest = args_of(msg)
            msg["args"] = (Free(body, self.kept), *rest)
        elif msg["type"] == "sample" and msg["name"] in self.states:
            state, chain = self.states[msg["name"]], chain_of(msg["fn"])
            if chain is not None:
                kind, path = chain
                state = kind.draw_on(path, state, numpyro.prng_key())
            msg["value"] = state


def chain_of(fn: Any) -> tuple[LocalKind, Any] | None:
    """The chain that a distribution is, in whatever it is wrapped, and its kind."""
    base = peel(fn)[0] if isinstance(fn, dist.Distribution) else None
    kind = kind_of(base)
    return (kind, base) if kind is not None and kind.chain else None


def hidden_laws(messages: dict[str, dict], names: Iterable[str]) -> list[Array]:
    """The laws of discrete sites: of a path, of its steps.

    Another law may give the same draw of such a site; one of a continuous site differs
    wherever its law does.

    :param messages: of a run of a model.
    :param names: sites of it.
    """
    laws: list[Any] = []
    for name in names:
        message = messages[name]
        if message["type"] != "sample" or not message["fn"].is_discrete:
            continue
        chain = chain_of(message["fn"])
        if chain is not None and isinstance(chain[0], DiscreteKind):
            kind, path = chain
            laws.append(kind.log_probs(path))
        else:
            laws += jax.tree.leaves(peel(message["fn"])[0])
    return [jnp.asarray(law) for law in laws]
