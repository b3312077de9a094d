# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Terms of a sum that lanes and steps may share."""

from typing import Any

import jax
from jax import Array

__all__ = ["Terms", "collect", "collected"]


class Terms(tuple):
    """Arrays to be added up, of which some may be shared by what others tell apart."""


jax.tree_util.register_pytree_node(
    Terms, lambda terms: (tuple(terms), None), lambda _, terms: Terms(terms)
)


def collect(*terms: Array) -> Terms:
    """Terms that a loop is to add up where their shapes are equal.

    What lanes share is summed after the loop: where lanes are spread over devices,
    every sum over lanes is a message between them.
    """
    return Terms(terms)


def collected(tree: Any, shapes: Any) -> Any:
    """A pytree with the terms in it added up where their shapes are equal.

    :param shapes: the same tree; the shapes of its leaves are what counts.
    """

    def add_up(terms: Any, shapes: Any) -> Any:
        if not isinstance(terms, Terms):
            return terms
        sums: dict[tuple[int, ...], Array] = {}
        for term, like in zip(terms, shapes, strict=True):
            found = sums.get(like.shape)
            sums[like.shape] = term if found is None else found + term
        return tuple(sums.values())

    return jax.tree.map(add_up, tree, shapes, is_leaf=lambda x: isinstance(x, Terms))
