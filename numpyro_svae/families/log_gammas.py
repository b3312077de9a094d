# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The logarithms of several Gamma functions at once."""

from __future__ import annotations

from itertools import accumulate

from jax import Array, lax
import jax.numpy as jnp
from jax.scipy.special import gammaln

__all__ = ["log_gammas"]


def log_gammas(*arguments: Array) -> list[Array]:
    """:math:`\\log \\Gamma` of each of several arrays, in one evaluation.

    It is hundreds of operations, which XLA compiles once more for each place that they
    are needed in: that takes longer than all the rest of a divergence.
    """
    flat = jnp.concatenate([jnp.ravel(x) for x in arguments])
    found = lax.optimization_barrier(gammaln(flat))
    ends = list(accumulate(x.size for x in arguments))
    parts = jnp.split(found, ends[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, arguments)]
