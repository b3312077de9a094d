# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Shows latent chains that are not linear as linear ones, with a matrix for each step.

What the matrices depend on is what the transition depends on, so that a program is read
as if its chains were linear. Inference puts the matrices there that are best for data.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.distributions import LinearGaussianChain, NonlinearGaussianChain
from numpyro_svae.program.run.wrappers import Layer, peel

__all__ = ["LinearisedChain", "linearised", "with_matrices"]


class LinearisedChain(LinearGaussianChain):
    """A linear chain that stands for one that is not, with a matrix for each step."""


def linearised(message: dict) -> dict:
    """The message of a sample site, in which a latent chain is shown as a linear one.

    The chain itself is kept in it, as ``"chain"``.
    """
    if message["type"] != "sample" or message["is_observed"]:
        return message
    chain = peel(message["fn"])[0]
    if not isinstance(chain, NonlinearGaussianChain):
        return message
    return {**message, "fn": _inside(message["fn"], _linear(chain)), "chain": chain}


def with_matrices(fn: Any, matrices: Array) -> dist.Distribution:
    """A chain that is shown as a linear one with other matrices.

    :param fn: the chain, in whatever it is wrapped.
    :param matrices: ``[A, b]`` of the steps, ``(..., T - 1, D, D + 1)``.
    """
    chain: LinearGaussianChain = peel(fn)[0]
    moved = LinearisedChain(
        chain.initial_loc,
        chain.initial_cov,
        matrices,
        chain.transition_cov,
        inputs=chain.inputs,
        num_steps=chain.num_steps,
        lengths=chain.lengths,
        validate_args=False,
    )
    return _inside(fn, moved)


def _inside(fn: Any, chain: dist.Distribution) -> dist.Distribution:
    """What a distribution is wrapped in, around another chain."""
    layer = Layer.of(fn)
    return chain if layer is None else layer.around(_inside(layer.inner, chain))


def _linear(chain: NonlinearGaussianChain) -> LinearisedChain:
    """A chain with the linear steps that are closest for standard normal states."""
    (num_steps, size), batch = chain.event_shape, chain.inner_batch
    loc = chain.initial_loc
    origin = jnp.zeros((*batch, num_steps - 1, size), loc.dtype)
    offsets = math.sqrt(size) * jnp.eye(size, dtype=loc.dtype)
    more, less = (
        jax.vmap(lambda e, sign=sign: chain.means(origin + sign * e))(offsets)
        for sign in (1.0, -1.0)
    )
    matrix = jnp.moveaxis(more - less, 0, -1) / (2 * math.sqrt(size))
    bias = 0.5 * jnp.mean(more + less, 0)
    return LinearisedChain(
        loc,
        chain.initial_cov,
        jnp.concatenate([matrix, bias[..., None]], -1),
        chain.transition_cov,
        inputs=jnp.ones((num_steps - 1, 1), loc.dtype),
        num_steps=num_steps,
        lengths=chain.lengths,
        validate_args=False,
    )
