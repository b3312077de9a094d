# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Divergences, registered with :func:`numpyro.distributions.kl_divergence`."""

import jax
from jax import Array
import jax.numpy as jnp
from numpyro.distributions.kl import kl_divergence

from numpyro_svae.distributions.gaussian_inverse_wishart import GaussianInverseWishart
from numpyro_svae.distributions.matrix_normal_inverse_wishart import (
    MatrixNormalInverseWishart,
)
from numpyro_svae.distributions.normal_inverse_wishart import NormalInverseWishart
from numpyro_svae.families import RegressionNatural

__all__ = ["kl_divergence"]


@kl_divergence.register(MatrixNormalInverseWishart, MatrixNormalInverseWishart)
@kl_divergence.register(NormalInverseWishart, NormalInverseWishart)
def _kl_gaussian_inverse_wishart(
    p: GaussianInverseWishart, q: GaussianInverseWishart
) -> Array:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "A divergence needs events of one shape; got "
            f"{p.event_shape} and {q.event_shape}."
        )
    batch_shape = jnp.broadcast_shapes(p.batch_shape, q.batch_shape)
    p_natural, q_natural = (
        _broadcast(d.natural_parameters, batch_shape) for d in (p, q)
    )
    return p_natural.kl(q_natural)


def _broadcast(natural: RegressionNatural, batch_shape: tuple[int, ...]):
    rank = len(natural.batch_shape)
    return jax.tree.map(
        lambda x: jnp.broadcast_to(x, batch_shape + x.shape[rank:]), natural
    )
