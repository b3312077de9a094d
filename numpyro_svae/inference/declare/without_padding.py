# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior of a path, beside a program that scores no state after its end."""

from __future__ import annotations

from typing import Any

from jax import Array
import numpyro.distributions as dist

from numpyro_svae.program.run.log_probs import of_padding

__all__ = ["WithoutPadding"]


class WithoutPadding(dist.Distribution):
    """A distribution of paths whose states after the ends of sequences have no density.

    A chain with ``lengths`` draws these states from a density of its own, which counts
    in it and in the guide alike. A scan whose body masks them has none of it, so the
    guide has the ratio to that density there: weights of draws are those of the chain.

    :param fn: a distribution of whole paths, in which these states count.
    :param chain: the chain of the program in the one-site spelling, with ``lengths``.
    """

    pytree_data_fields = ("fn", "chain")

    def __init__(self, fn: Any, chain: Any) -> None:
        self.fn, self.chain = fn, chain
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Paths, as those of the distribution."""
        return self.fn.support

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw whole paths."""
        return self.fn.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        """The log density of the path less that of its padding in the chain."""
        return self.fn.log_prob(value) - of_padding(self.chain, value)
