# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Probabilities that are products of entries of blocks, as those of stick breaking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from numpyro_svae.program.priors.bilinear import Bilinear
from numpyro_svae.program.priors.joins import Join
from numpyro_svae.program.priors.table_priors import TablePrior

__all__ = ["Joined", "RowProducts"]

Rows = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class RowProducts:
    """Which entries of some blocks the probabilities of a site are products of.

    With rows :math:`\\pi_{bg}` of the blocks, which sum to one, a probability is
    :math:`p_k = c_k \\prod_{bgm} \\pi_{bgm}^{a_{kbgm}}`. Its log is linear in the
    statistics of each block, so that the factor is conjugate to all of them.

    :param name: of the products, made of their factor's site and role.
    :param blocks: the Dirichlet and Beta blocks, in program order.
    :param base: rows of each block, ``(G, M)``, at which c is read.
    :param exponents: a for each block, whole numbers ``(..., K, G M)``, where what the
        program gives the site has shape ``(..., K)``; empty if not yet known.
    """

    name: str
    blocks: tuple[TablePrior, ...]
    base: Rows
    exponents: Rows = ()

    def values(self, rows: Any) -> dict[str, Any]:
        """Values of the sites, from rows of each block."""
        found = dict[str, Any]()
        for block, own in zip(self.blocks, rows):
            found |= block.values_of(own)
        return found

    def expected(self, values: dict[str, Any], log_known: Any) -> np.ndarray:
        """The probabilities at values of the sites.

        :param log_known: log c.
        """
        total = np.asarray(log_known, float)
        for block, powers in zip(self.blocks, self.exponents):
            total = total + powers @ np.log(np.ravel(block.rows_of(values)))
        return np.exp(total)


Joined = Join | Bilinear | RowProducts
"""What holds the parameters of a factor of several blocks."""
