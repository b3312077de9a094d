# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Chains that ``vmap`` and ``scan`` have given more batch dimensions."""

from __future__ import annotations

import copy
from typing import Any

import jax.numpy as jnp
from numpyro.distributions.batch_util import promote_batch_shape

from numpyro_svae.distributions.discrete_markov_chain import DiscreteMarkovChain
from numpyro_svae.distributions.linear_gaussian_chain import LinearGaussianChain
from numpyro_svae.distributions.nonlinear_gaussian_chain import NonlinearGaussianChain

__all__ = ["promote_batch_shape"]

_EVENT_DIMS = {
    "initial_loc": 1,
    "initial_cov": 2,
    "initial_probs": 1,
    "transition_matrix": 3,
    "transition_cov": 3,
    "transition_probs": 3,
    "transition_logits": 3,
    "inputs": 2,
    "lengths": 0,
}


@promote_batch_shape.register(LinearGaussianChain)
@promote_batch_shape.register(DiscreteMarkovChain)
@promote_batch_shape.register(NonlinearGaussianChain)
def _promote_chain(chain: Any) -> Any:
    """The chain with its new dimensions in its batch shape, in front.

    Each argument has them in front of as many batch dimensions as it had by itself, so
    those that had less than the chain get dimensions of size one in between.
    """
    given = {n: x for n in _EVENT_DIMS if (x := vars(chain).get(n)) is not None}
    ranks = {name: jnp.ndim(x) - _EVENT_DIMS[name] for name, x in given.items()}
    most = max(ranks.values())
    new = most - len(chain.batch_shape)
    if not new:
        return chain
    promoted = copy.copy(chain)
    for name, x in given.items():
        between = tuple(range(new, new + most - ranks[name]))
        setattr(promoted, name, jnp.expand_dims(x, between))
    promoted._batch_shape = jnp.broadcast_shapes(
        *(jnp.shape(vars(promoted)[name])[:most] for name in given)
    )
    return promoted
