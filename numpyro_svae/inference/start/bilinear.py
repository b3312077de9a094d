# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where weights start that others are multiplied by."""

from __future__ import annotations

from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.families import GaussianNatural

__all__ = ["away_from_zero"]

_SHARE = 0.1  # of the size of the weights, squared, that their variance starts at


def away_from_zero(key: Array, prior: GaussianNatural, value: Array) -> GaussianNatural:
    """Weights that are drawn: where all are zero, nothing moves them.

    The sum of their products is about as large as the data are, and none is larger than
    its prior allows for.

    :param key: random key.
    :param prior: natural parameters without the data.
    :param value: the data.
    """
    mean, precision = prior.moments().mean, prior.precision
    own = jnp.diagonal(precision, axis1=-2, axis2=-1)
    spread = jnp.sqrt(jnp.mean(value**2) / mean.shape[-1])
    variance = jnp.minimum(1 / own, jnp.where(spread > 0, spread, 1.0))
    drawn = jnp.sqrt(variance) * random.normal(key, mean.shape, mean.dtype)
    tight = jnp.eye(mean.shape[-1]) / (_SHARE * variance)[..., None]
    return GaussianNatural.from_mean(mean + drawn, precision + tight)
