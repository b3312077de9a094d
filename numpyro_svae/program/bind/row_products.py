# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads probabilities that are products of entries of blocks.

If one entry of a row is raised half of the way to one, and the others are halved so
that they still sum to one, logs of probabilities move by a known number for each power
of the entry, and by another one for each power of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.bind.entries import Parameter
from numpyro_svae.program.priors.row_products import RowProducts
from numpyro_svae.program.priors.table_priors import TablePrior
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.assignments import by_states
from numpyro_svae.program.structure.probing import Prober

__all__ = ["BoundProducts", "base_rows", "bind_products", "read_exponents"]

Selectors = tuple[str, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BoundProducts:
    """Products of entries of blocks, with what they are multiplied by.

    :param exponents: by block, ``(..., K, G M)`` for its G members of M entries.
    :param log_known: the log of what is known, ``(..., K)``.
    """

    exponents: dict[str, Array]
    log_known: Array

    def take(self, moments: dict[str, Array], nothing: Any = None) -> Array:
        """Expected logs of the probabilities, ``(..., K)``.

        :param moments: of blocks; those that are not here count as zero.
        :param nothing: what other rows have in the place of what is known.
        """
        total = self.log_known
        for name, powers in self.exponents.items():
            if name in moments:
                total = total + _powers_times(powers, jnp.ravel(moments[name]))
        return total

    def of(self, name: str) -> ProductsOfBlock:
        """The same of one block alone, where others are as they are."""
        return ProductsOfBlock(name, self)


@dataclass(frozen=True)
class ProductsOfBlock:
    """Products, as rows of one of their blocks.

    :param name: of the block.
    :param products: the products.
    """

    name: str
    products: BoundProducts

    def take(self, moments: Array) -> Array:
        """Expected logs, but for what other blocks add."""
        return self.products.take({self.name: moments})

    def shares(self, concentration: Array) -> Array:
        """The same for all categories that are possible: which of the members of a
        mixture have most, nothing says yet."""
        return 1.0 * (self.products.log_known > -jnp.inf)


def _powers_times(powers: Array, logs: Array) -> Array:
    """``powers @ logs``, with 0 times minus infinity for zero."""
    closed = jnp.isneginf(logs)
    total = powers @ jnp.where(closed, 0.0, logs)
    return jnp.where(powers @ closed.astype(total.dtype) > 0, -jnp.inf, total)


def base_rows(block: TablePrior) -> list[np.ndarray]:
    """Rows ``(G, M)`` at which products of G rows may be far from zero.

    They are even, or have a first entry, or a rest, that is small enough for products
    of G of the others. Sticks are broken in either way.
    """
    size, members = block.size, block.total // block.size
    low = np.array([1.0] + [members / max(size - 1, 1)] * (size - 1)) / (members + 1)
    even = np.full(size, 1 / size)
    return [np.tile(row, (members, 1)) for row in (even, low, low[::-1])]


def shown(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    selectors: Selectors,
    values: dict[str, Any],
) -> Array:
    """Probabilities at values of the blocks, in each state of discrete sites."""
    positions = extent_of(site, parameter.role).positions
    known = {**prober.plain_values(), **values}

    def read(assignment: dict[str, Any]) -> Array:
        found = prober.read({**known, **assignment})[site.name][parameter.name]
        if not selectors:
            return jnp.asarray(found)
        event = found.shape[found.ndim - parameter.rank :]
        return jnp.broadcast_to(found, (*positions, *event))

    return by_states(prober, selectors, read, positions)


def read_exponents(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    selectors: Selectors,
    products: RowProducts,
) -> tuple[Array, ...]:
    """The powers of the entries of each block, as they are read.

    :param products: the products, of which the exponents are not known.
    """

    def logs(rows: Any) -> Array:
        found = shown(prober, site, parameter, selectors, products.values(rows))
        return jnp.log(jnp.where(found > 0, found, 1.0))

    origin, every = logs(products.base), []
    for index, base in enumerate(products.base):
        raised = jnp.asarray(_raised(base), origin.dtype)

        def move(own: Array, index: int = index) -> Array:
            rows = (*products.base[:index], own, *products.base[index + 1 :])
            return logs(rows) - origin

        moves = jnp.moveaxis(jax.vmap(move)(raised), 0, -1)
        every.append(_powers(moves.reshape(*moves.shape[:-1], *base.shape), base))
    return tuple(every)


def _raised(base: np.ndarray) -> np.ndarray:
    """Rows with each entry of them raised half of the way to one."""
    members, size = base.shape
    unit = np.eye(members * size).reshape(-1, members, size)
    own = unit.any(-1, keepdims=True)
    return np.where(own, 0.5 * base + 0.5 * unit, base)


def _powers(moves: Array, base: np.ndarray) -> Array:
    """Powers ``(..., G M)`` from how logs move, ``(..., G, M)``.

    With powers a of a row r that sum to A, raising entry m moves the log by
    ``a_m log((1 + r_m) / (2 r_m)) - (A - a_m) log 2``.
    """
    own = np.log1p(1 / base)
    share = moves / own
    total = jnp.sum(share, -1, keepdims=True)
    total = total / (1 - np.sum(np.log(2) / own, -1, keepdims=True))
    found = jnp.round(share + jnp.round(total) * (np.log(2) / own))
    return found.reshape(*found.shape[:-2], -1)


def bind_products(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    selectors: Selectors,
    products: RowProducts,
) -> BoundProducts:
    """Read what products are multiplied by."""
    values = products.values([jnp.asarray(rows) for rows in products.base])
    found = shown(prober, site, parameter, selectors, values)
    possible = found > 0
    log_known = jnp.where(possible, jnp.log(jnp.where(possible, found, 1.0)), -jnp.inf)
    powers = [jnp.asarray(own, log_known.dtype) for own in products.exponents]
    for own, base in zip(powers, products.base):
        log_known = log_known - own @ jnp.asarray(np.log(np.ravel(base)), own.dtype)
    names = (block.name for block in products.blocks)
    return BoundProducts(dict(zip(names, powers)), log_known)
