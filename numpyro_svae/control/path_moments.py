# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""First and second moments of paths, whether they are known or smoothed."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp
from numpyro.distributions import Distribution

from numpyro_svae.distributions import LinearGaussianChain

__all__ = ["PathMoments", "Paths", "path_moments"]

Paths = LinearGaussianChain | Array


class PathMoments(NamedTuple):
    """Of N paths with T + 1 states.

    :param mean: ``(N, T + 1, D)``.
    :param covariance: ``(N, T + 1, D, D)``.
    :param cross: ``Cov(x_{t+1}, x_t)``, ``(N, T, D, D)``.
    """

    mean: Array
    covariance: Array
    cross: Array


def path_moments(states: Paths) -> PathMoments:
    """The moments of paths.

    :param states: a distribution with a batch of N paths, or known states, ``(N, T + 1,
        D)``, which have no covariance.
    :raises ValueError: if they are anything else.
    """
    if isinstance(states, LinearGaussianChain):
        shape = states.batch_shape + states.event_shape
    elif isinstance(states, Distribution):
        raise ValueError(
            f"states: found a {type(states).__name__}; accepted are a "
            "LinearGaussianChain, and arrays."
        )
    else:
        shape = jnp.shape(states)
    if len(shape) != 3 or shape[1] < 2:
        raise ValueError(
            f"states: found shape {shape}; accepted are paths of shape (N, T + 1, D), "
            "with a step at least."
        )
    if isinstance(states, LinearGaussianChain):
        return PathMoments(states.mean, states.covariance, states.neighbor_covariance)
    mean = jnp.asarray(states, float)
    zero = jnp.zeros((*shape, shape[-1]), mean.dtype)
    return PathMoments(mean, zero, zero[:, 1:])
