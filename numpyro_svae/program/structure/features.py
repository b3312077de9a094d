# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The features of transitions ``k(x, u) + F phi(x, u)``, as functions.

As of every Gaussian factor, the program shows k where F is zero, and a feature where F
copies it to the first entry of the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.distributions import NonlinearGaussianChain

__all__ = ["Features", "columns_of"]


@dataclass(frozen=True)
class Features:
    """What the means of a chain are made of, but for the weights.

    :param chain: the chain with weights of zero.
    :param at: the chain whose weights copy a feature to the first entry of the mean.
    :param columns: how many features there are.
    """

    chain: NonlinearGaussianChain
    at: Callable[[Any], NonlinearGaussianChain]
    columns: int

    @classmethod
    def of(
        cls, run: Callable[[dict[str, Any]], dict[str, dict]], holder: Any, name: str
    ) -> Features:
        """Those of a chain of a program.

        :param run: runs the program at values of the blocks that hold the weights, and
            gives its messages.
        :param holder: what holds the weights; None if nothing does.
        :param name: the site of the chain.
        """
        columns = columns_of(holder)

        def at(column: Any) -> NonlinearGaussianChain:
            return run(holder.plain_values(column) if columns else {})[name]["chain"]

        return cls(at(-1), at, columns)

    def parts(
        self, read: Callable[[NonlinearGaussianChain], Array]
    ) -> tuple[Array, Array]:
        """What is known of means, ``(..., D)``, and the features ``(..., M)``.

        :param read: reads means of a chain.
        """
        if not self.columns:
            known = read(self.chain)
            return known, known[..., :0]
        columns = jnp.arange(-1, self.columns)  # at once: the program is run once
        found = jax.vmap(lambda column: read(self.at(column)))(columns)
        known = found[0]
        return known, jnp.moveaxis(found[1:, ..., 0], 0, -1) - known[..., :1]


def columns_of(holder: Any) -> int:
    """How many columns the weight of a factor has that is learnt.

    :param holder: what holds it; None if nothing does.
    """
    return 0 if holder is None else holder.columns
