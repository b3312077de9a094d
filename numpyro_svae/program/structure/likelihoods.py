# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Log likelihoods of a program as functions of its latent local sites."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.run.arrays import is_array
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.run.wrappers import at_positions, peel
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["Likelihoods", "Statics"]


class Statics:
    """What is no array in a program. It is hashed, as a static argument of jit.

    Two of them are equal if all parts are the same objects, or equal.

    :param kind: the class of the program.
    :param tree: how the leaves of its fields hang together.
    :param leaves: those that are no arrays, by index.
    """

    def __init__(self, kind: type[Program], tree: Any, leaves: dict[int, Any]) -> None:
        self.kind, self.tree, self.leaves = kind, tree, leaves

    def __hash__(self) -> int:
        return hash((self.kind, self.tree, tuple(self.leaves)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statics):
            return NotImplemented
        same = (self.kind, self.tree) == (other.kind, other.tree)
        return same and self.leaves.keys() == other.leaves.keys() and self._parts(other)

    def program(self, arrays: dict[int, Any]) -> Program:
        """The program with these arrays, by index."""
        leaves = self.leaves | arrays
        ordered = [leaves[i] for i in range(len(leaves))]
        return self.kind(**jax.tree.unflatten(self.tree, ordered))

    def _parts(self, other: Statics) -> bool:
        pairs = ((leaf, other.leaves[i]) for i, leaf in self.leaves.items())
        return all(_alike(own, theirs) for own, theirs in pairs)


def _alike(own: Any, other: Any) -> bool:
    if own is other:
        return True
    return type(own) is type(other) and bool(own == other)


class Likelihoods:
    """The log likelihoods of a program with its data.

    :param statics: what is no array in the program.
    :param arrays: its arrays, by index.
    :param structure: its wiring.
    """

    def __init__(
        self, statics: Statics, arrays: dict[int, Any], structure: Structure
    ) -> None:
        self.program = statics.program(arrays)
        self.structure = structure

    @staticmethod
    def split(program: Program) -> tuple[Statics, dict[int, Any]]:
        """What is no array in a program, and its arrays."""
        known = {f.name: getattr(program, f.name) for f in fields(program)}
        leaves, tree = jax.tree.flatten(known)
        arrays = {i: leaf for i, leaf in enumerate(leaves) if is_array(leaf)}
        statics = {i: leaf for i, leaf in enumerate(leaves) if i not in arrays}
        return Statics(type(program), tree, statics), arrays

    def at(
        self, names: Collection[str], values: dict[str, Array], extra: int = 0
    ) -> dict[str, Array]:
        """Log likelihoods of observed sites, per entry of their batch.

        They have no scales. All other latent sites are where data are read.

        :param names: the observed sites.
        :param values: of the latent sites that they depend on.
        :param extra: how many of their event dimensions are not summed over.
        """
        messages = plain_run(self.program, self.structure, values)
        return {name: _log_prob(messages[name], extra) for name in names}

    def by_position(self, name: str, values: dict[str, Array]) -> Array:
        """The log likelihood of one observed site, for what it treats apart.

        It has no scale. All other latent sites are where data are read.

        :param name: the observed site.
        :param values: of the latent sites that it depends on.
        :return: ``(*batch, *extra)``, with dimensions that ``to_event`` made events.
        """
        message = plain_run(self.program, self.structure, values)[name]
        apart = at_positions(message["fn"], peel(message["fn"])[2])
        return _log_prob({**message, "fn": apart, "intermediates": None})


def _log_prob(message: dict, extra: int = 0) -> Array:
    fn, known = at_positions(message["fn"], extra), message["intermediates"]
    log_prob = fn.log_prob(message["value"], *([known] if known else []))
    return jnp.broadcast_to(log_prob, fn.batch_shape)
