# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Log probabilities of sites, of which the padding of observed chains is no part."""

from __future__ import annotations

from math import log, pi
from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.run.kinds import lengths_of
from numpyro_svae.program.run.wrappers import inside, peel

__all__ = ["log_prob_of", "of_padding"]


def log_prob_of(message: dict) -> Array:
    """Log probability of a site.

    A latent chain draws the states after the ends of its sequences too, from a density
    that counts here and in the guide. Those of an observed one are no data: what is
    stored there is not looked at, and has no density.

    :param message: of a sample site.
    :return: of the batch shape of its distribution.
    """
    fn, value, known = (message[part] for part in ("fn", "value", "intermediates"))
    if message["is_observed"] and lengths_of(inside(fn)) is not None:
        return _of_what_exists(fn, value)
    return fn.log_prob(value, *([known] if known else []))


def _of_what_exists(fn: Any, value: Array) -> Array:
    chain, mask, extra = peel(fn)
    state = chain.event_shape[1:]  # a vector, or nothing where it is discrete
    ended = _ended(chain)
    there = jnp.reshape(ended, ended.shape + (1,) * len(state))
    value = jnp.where(there, 0, value)
    beyond = jnp.broadcast_to(of_padding(chain, value), chain.batch_shape)
    if mask is not None:
        beyond = jnp.where(mask, beyond, 0.0)
    axes = tuple(range(beyond.ndim - extra, beyond.ndim))
    return fn.log_prob(value) - jnp.sum(beyond, axes)


def of_padding(chain: Any, value: Array) -> Array:
    """Log density of the states of a path after the end of its sequence.

    :param chain: a chain with ``lengths``, in nothing.
    :param value: the path, of which all else is not looked at.
    :return: of the batch shape of the chain and the path.
    """
    if chain.is_discrete:
        each = jnp.asarray(-log(chain.num_states))
    else:
        each = jnp.sum(-0.5 * (value**2 + log(2 * pi)), -1)
    return jnp.sum(jnp.where(_ended(chain), each, 0.0), -1)


def _ended(chain: Any) -> Array:
    return jnp.arange(chain.event_shape[0]) >= chain.lengths[..., None]
