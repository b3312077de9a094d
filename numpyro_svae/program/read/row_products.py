# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds the blocks that probabilities are products of entries of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
import math
from typing import Any

import jax
from jax import Array
import numpy as np

from numpyro_svae.program.bind.entries import Parameter
from numpyro_svae.program.bind.row_products import (
    base_rows,
    bind_products,
    read_exponents,
    shown,
)
from numpyro_svae.program.priors.row_products import RowProducts
from numpyro_svae.program.priors.table_priors import TablePrior
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.assignments import assignment_at, can_list, entry_at
from numpyro_svae.program.structure.probing import Prober

__all__ = ["find_products"]

_LARGEST = 2**24
"""How many exponents may be held: those of each probability and each entry."""


def find_products(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    blocks: tuple[TablePrior, ...],
    selectors: tuple[str, ...],
) -> RowProducts | None:
    """How probabilities are products of entries of blocks, for all arguments.

    :param prober: the program.
    :param site: the site.
    :param parameter: its probabilities.
    :param blocks: Dirichlet and Beta blocks.
    :param selectors: the discrete sites that these depend on.
    :return: None if they are no such products.
    """
    if not (blocks and parameter.rows and can_list(prober, selectors)):
        return None
    known = site, parameter, selectors
    name = f"{site.name} {parameter.role}"
    based = _at_base(RowProducts(name, blocks, ()), prober, *known)
    if based is None:
        return None

    def read(own: Prober) -> tuple[Array, ...]:
        return jax.jit(lambda: read_exponents(own, *known, based))()

    found = tuple(np.asarray(x) for x in read(prober))
    others = prober.read_elsewhere(read)
    if not all(map(np.array_equal, found, others)) or min(x.min() for x in found) < 0:
        return None
    products = replace(based, exponents=found)
    return products if _agrees(products, prober, *known) else None


def _at_base(
    products: RowProducts,
    prober: Prober,
    site: Site,
    parameter: Parameter,
    selectors: tuple[str, ...],
) -> RowProducts | None:
    """Products at rows where the smallest of them is largest; None for too many."""
    options = list(zip(*map(base_rows, products.blocks)))

    def look(rows: Any) -> Array:
        return shown(prober, site, parameter, selectors, products.values(rows))

    total = sum(block.total for block in products.blocks)
    size = math.prod(jax.eval_shape(look, options[0]).shape)
    if size * total > _LARGEST:
        return None
    found = [np.asarray(x) for x in jax.jit(lambda: [look(rows) for rows in options])()]
    smallest = [np.min(np.where(x > 0, x, np.inf), initial=1.0) for x in found]
    return replace(products, base=options[int(np.argmax(smallest))])


def _agrees(
    products: RowProducts,
    prober: Prober,
    site: Site,
    parameter: Parameter,
    selectors: tuple[str, ...],
) -> bool:
    """Whether products are the probabilities that the program has at random values."""
    known = prober, site, parameter, selectors
    log_known = jax.jit(lambda: bind_products(*known, products).log_known)()
    extent = extent_of(site, parameter.role)
    for values in _probes(products, prober):
        found = prober.read(values)[site.name][parameter.name]
        expected = products.expected(values, log_known)
        if selectors:
            index = assignment_at(prober, extent, selectors, values)
            expected = entry_at(expected, index, extent, parameter.rank)
        if not _close(found, expected):
            return False
    return True


def _probes(products: RowProducts, prober: Prober) -> Iterator[dict[str, Any]]:
    """Random values of all sites, anywhere, and where no product is small."""
    rng = np.random.default_rng(0)
    for values in prober.probes():
        yield values
        rows = [base * rng.uniform(0.5, 1.5, base.shape) for base in products.base]
        rows = [own / own.sum(-1, keepdims=True) for own in rows]
        yield {**values, **products.values(rows)}


def _close(found: Any, expected: np.ndarray) -> bool:
    """Equality of each entry up to broadcasting and float32 rounding."""
    try:
        found, expected = np.broadcast_arrays(found, expected)
    except ValueError:
        return False
    return bool(np.allclose(found, expected, rtol=1e-3, atol=1e-6))
