# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which entries of a global block the entries of a parameter are.

An entry of a table, of a rate or of a probability may be any entry of one block times a
known number, or known altogether: rows that data and discrete sites pick, entries that
are placed among zeros, rates with an exposure. Its log is then linear in the statistics
of the block, so that the factor is conjugate.

What is where is read off three runs of the program, at values of the block at which the
ratios of an entry tell which one it is, whatever it is multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.priors.table_priors import TablePrior
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.assignments import by_states
from numpyro_svae.program.structure.probing import Prober

__all__ = ["Entries", "Parameter", "Picked", "read_entries"]

_LEARNT = 0.125  # what is learnt changes at least twice as much between two runs


class Parameter(NamedTuple):
    """A parameter of a site that is made of entries of a block.

    :param name: its name.
    :param role: the part of the density of the site that it belongs to.
    :param rows: whether its last axis is one of categories.
    :param event_dim: how many event dimensions of the site are features of the block.
    """

    name: str
    role: str = "value"
    rows: bool = True
    event_dim: int = 0

    @property
    def rank(self) -> int:
        """How many trailing axes are no positions."""
        return self.event_dim + self.rows + (self.role == "transition")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Entries:
    """A parameter with entries ``known * (*block, 1)[index]``.

    Arrays have shape ``(*positions, *states, *event)``, or without states that which
    the program gives the parameter.

    :param index: in the entries of the block, one after the other; their number where
        nothing is learnt.
    :param known: what they are multiplied by.
    """

    index: Array
    known: Array

    def values(self, entries: Any) -> np.ndarray:
        """The parameter, from values of the entries of the block."""
        every = np.append(np.ravel(entries), 1.0)
        return np.asarray(self.known) * every[np.asarray(self.index)]

    def with_complements(self, prior: TablePrior) -> Entries:
        """Probabilities p as ``(p, 1 - p)``, of a block of such pairs.

        What is learnt must be an entry of the block as it is.
        """
        learnt = (self.index < prior.total)[..., None]
        pair = jnp.stack([self.index, self.index ^ 1], -1)
        known = jnp.stack([self.known, 1 - self.known], -1)
        return Entries(
            jnp.where(learnt, pair, prior.total), jnp.where(learnt, 1.0, known)
        )

    def members(self, prior: TablePrior, rows: bool) -> Array:
        """Which member of the batch each position has, if it has a whole one."""
        features = 0 if rows else len(prior.features)
        index = self.index[(..., 0)] if rows else self.index[(..., *(0,) * features)]
        return index // prior.member_size

    def whole(self, prior: TablePrior, rows: bool) -> Array:
        """Whether all positions have whole members of the batch, as they are."""
        if rows and prior.features:
            return jnp.array(False)
        stride = 1 if rows else prior.size
        event = (prior.size,) if rows else prior.features
        if event and self.index.shape[-len(event) :] != event:
            return jnp.array(False)
        first = jnp.expand_dims(self.members(prior, rows), tuple(range(-len(event), 0)))
        each = stride * jnp.arange(prior.member_size // stride).reshape(event)
        expected = first * prior.member_size + each
        learnt = self.index < prior.total
        alike = jnp.isclose(self.known, 1.0, rtol=0.0, atol=1e-5)
        return jnp.all((self.index == expected) & learnt & alike)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["members", "index", "log_known"],
    meta_fields=["batch_dim"],
)
@dataclass(frozen=True)
class Picked:
    """Where the moments of a factor are among those of its block.

    :param members: the member of the batch at each position; None if entries are
        placed by themselves.
    :param index: of the entries of the block at each position, as in :class:`Entries`.
    :param log_known: the log of what they are multiplied by, if the moments are logs.
    :param batch_dim: how many axes the batch of the block has.
    """

    members: Array | None = None
    index: Array | None = None
    log_known: Array | None = None
    batch_dim: int = 1

    @classmethod
    def placed(cls, entries: Entries) -> Picked:
        """Entries of probabilities that are placed one by one."""
        possible = entries.known > 0
        log = jnp.log(jnp.where(possible, entries.known, 1.0))
        return cls(None, entries.index, jnp.where(possible, log, -jnp.inf))

    def take(self, moments: Any, nothing: Any = 0.0) -> Any:
        """The moments at the positions.

        :param moments: of the block; None if all is known.
        :param nothing: the moments of what is known, as many as those of the block.
        """
        if self.members is not None:
            return jax.tree.map(self._member, moments)
        if moments is None:
            return self.log_known
        nothing = jax.tree.broadcast(nothing, moments)

        def gather(leaf: Array, known: Any) -> Array:
            every = jnp.append(jnp.ravel(leaf), jnp.asarray(known, leaf.dtype))
            found = every[self.index]
            return found if self.log_known is None else found + self.log_known

        return jax.tree.map(gather, moments, nothing)

    def shares(self, concentration: Array) -> Array:
        """Concentrations of a block at the positions, zero for what is known."""
        if self.members is not None:
            return self._member(concentration)
        every = jnp.append(jnp.ravel(concentration), 0.0)[self.index]
        possible = True if self.log_known is None else self.log_known > -jnp.inf
        return jnp.where(possible, every, 0.0)

    def _member(self, leaf: Array) -> Array:
        return leaf.reshape(-1, *leaf.shape[self.batch_dim :])[self.members]


class _Code(NamedTuple):
    """Values of a block of G members with M entries that tell its entries apart.

    Every member has ``first``, then ``second``, then a mean of both with a weight of
    its own. Ratios of the first two tell which entry of a member one is, the third says
    of which member; no ratio is near one, which is that of what is known.

    :param first: entries, ``(M,)``.
    :param second: the same.
    :param members: G.
    """

    first: np.ndarray
    second: np.ndarray
    members: int

    @classmethod
    def of(cls, prior: TablePrior) -> _Code:
        members, size = prior.total // prior.size, prior.size
        if size == 1:
            one = np.ones(1)
            return cls(one, one if prior.normalised else 2 * one, members)
        low, high = size // 2, size - size // 2
        below = 0.5 + 0.25 * (np.arange(low) + 0.5) / low
        above = 1.25 + 0.25 * (np.arange(high) + 0.5) / high
        ratios = np.concatenate([below, above])
        # weights for which both sum to one
        up, down = np.sum(above - 1), np.sum(1 - below)
        first = np.repeat([up, down], [low, high]) / (up * low + down * high)
        return cls(first, first * ratios, members)

    def rows(self) -> np.ndarray:
        """The values, ``(3, G, M)``."""
        share = (1.0 + np.arange(self.members)[:, None]) / (1.0 + self.members)
        ones = np.ones_like(share)
        third = (1 - share) * self.first + share * self.second
        return np.stack([ones * self.first, ones * self.second, third])

    def read(self, first: Array, second: Array, third: Array) -> Entries:
        """The entries that a parameter shows at the three values."""
        ratios, size = self.second / self.first, len(self.first)
        ratio = second / jnp.where(first == 0, 1.0, first)
        learnt = (first != 0) & (jnp.abs(ratio - 1) > _LEARNT)
        entry = jnp.searchsorted(jnp.asarray((ratios[1:] + ratios[:-1]) / 2), ratio)
        change = jnp.where(learnt, second - first, 1.0)
        share = (third - first) / change * (1 + self.members)
        member = jnp.round(share).astype(jnp.int32) - 1
        index = jnp.clip(member, 0, self.members - 1) * size + entry
        index = jnp.where(learnt, index, self.members * size)
        known = jnp.where(learnt, first / jnp.asarray(self.first)[entry], first)
        return Entries(index.astype(jnp.int32), known)


def read_entries(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    prior: TablePrior | None,
    selectors: tuple[str, ...],
) -> Entries:
    """The entries of a parameter, if each of them is one of a block or known.

    :param prober: runs the program.
    :param site: the site.
    :param parameter: its parameter.
    :param prior: the block; None if all is known.
    :param selectors: discrete sites, to be read in each of their states.
    """
    positions = extent_of(site, parameter.role, parameter.event_dim).positions

    def shown(values: dict[str, Any]) -> Array:
        values = {**prober.plain_values(), **values}
        found = jnp.asarray(prober.read(values)[site.name][parameter.name])
        if not selectors:
            return found
        event = found.shape[found.ndim - parameter.rank :]
        return jnp.broadcast_to(found, (*positions, *event))

    if prior is None:
        known = by_states(prober, selectors, shown, positions)
        return Entries(jnp.zeros(known.shape, jnp.int32), known)
    code = _Code.of(prior)
    values = jax.tree.map(jnp.asarray, jax.vmap(prior.values_of)(code.rows()))

    def runs(assignment: dict[str, Any]) -> tuple[Array, ...]:
        found = jax.vmap(lambda own: shown({**own, **assignment}))(values)
        return tuple(found)

    return code.read(*by_states(prober, selectors, runs, positions))
