# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is known of a distribution by its class, and how Gaussians are spelled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

from jax import Array
import numpyro.distributions as dist

__all__ = ["Spelling", "entries_by_class", "spelling_of", "tril_of"]

T = TypeVar("T")

Spelling = Literal["numbers", "vector", "matrix"]

_SPELLINGS: tuple[tuple[type, Spelling], ...] = (
    (dist.Normal, "numbers"),
    (dist.MultivariateNormal, "vector"),
    (dist.MatrixNormal, "matrix"),
)
_TRILS: dict[Spelling | None, str] = {
    "numbers": "scale",
    "vector": "scale_tril",
    "matrix": "scale_tril_row",
}


def entries_by_class(table: Iterable[tuple[Any, T]], value: Any) -> Iterator[T]:
    """The entries of a table that are about the class of a value, in their order.

    :param table: pairs of a class, or several, and an entry.
    :param value: such as a distribution without what wraps it.
    """
    return (entry for classes, entry in table if isinstance(value, classes))


def spelling_of(fn: Any) -> Spelling | None:
    """How a Gaussian is spelled: as independent numbers, as a vector or as a matrix.

    :param fn: a distribution without what wraps it.
    :return: None if it is none of NumPyro's ``Normal``, ``MultivariateNormal`` and
        ``MatrixNormal``.
    """
    return next(entries_by_class(_SPELLINGS, fn), None)


def tril_of(fn: Any) -> Array:
    """The scale of numbers, or the Cholesky factor of the covariance of a vector or of
    the rows of a matrix."""
    return getattr(fn, _TRILS[spelling_of(fn)])
