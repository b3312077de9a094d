# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The divergence of a Gamma posterior from a prior of any density.

The prior is one more factor of the posterior. Its message is the gradient of its
expected log density in the mean parameters of the posterior (Khan and Lin,
*Conjugate-computation variational inference*, AISTATS 2017), which is the Gamma that is
closest to it where the posterior is: the regression of its log density on the
statistics. For a Gamma it is the Gamma itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families.gamma import GammaNatural
from numpyro_svae.families.gamma_nodes import GammaNodes, gamma_nodes

__all__ = ["closest_at", "closest_gamma", "free_kl"]

LogDensity = Callable[[Any, Array], Array]


def closest_gamma(
    log_density: LogDensity, natural: GammaNatural, prior: Any
) -> GammaNatural:
    """The message of a prior to a Gamma posterior.

    :param log_density: of the log of the value, of the shape of the value.
    :param natural: the posterior.
    :param prior: the prior, the first argument of the density.
    :return: natural parameters, which may be outside of their domain.
    """
    nodes = gamma_nodes(natural)
    return closest_at(nodes, log_density(prior, nodes.logs), natural)


def closest_at(nodes: GammaNodes, values: Array, natural: GammaNatural) -> GammaNatural:
    """The message of a log density that is known at the nodes of a posterior.

    :param nodes: those of the posterior.
    :param values: the log density there, ``(N, ...)``.
    :param natural: the posterior.
    """
    s = nodes.steps

    def dot(x: Array, y: Array) -> Array:
        return nodes.mean(x * y)

    # log p = c + slope s + bend (exp(s) - 1 - s) + what the Gamma cannot say
    one = jnp.ones_like(s)
    first = s - dot(one, s)
    second = jnp.expm1(s) - s
    second = second - dot(one, second)
    along = dot(first, second) / dot(first, first)
    second = second - along * first
    values = values - dot(one, values)
    bend = dot(second, values) / dot(second, second)
    slope = dot(first, values) / dot(first, first) - along * bend
    rate = -bend * jnp.exp(-nodes.center)
    return replace(natural, concentration=slope - bend, rate=rate)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def free_kl(log_density: LogDensity, natural: GammaNatural, prior: Any) -> Array:
    """The divergence of a Gamma from a prior, with the natural gradient.

    :param log_density: of the log of the value, of the shape of the value.
    :param natural: the posterior.
    :param prior: the prior, a pytree.
    :return: the divergence, of the batch shape of the posterior.
    """
    nodes = gamma_nodes(natural)
    return nodes.mean(nodes.log_density - log_density(prior, nodes.logs))


def _expected(log_density: LogDensity, natural: GammaNatural, prior: Any) -> Array:
    nodes = gamma_nodes(natural)
    return nodes.mean(log_density(prior, nodes.logs))


def _forward(log_density: LogDensity, natural: Any, prior: Any) -> tuple[Array, tuple]:
    return free_kl(log_density, natural, prior), (natural, prior)


def _backward(log_density: LogDensity, known: tuple, cotangent: Array) -> tuple:
    natural, prior = known
    message = closest_gamma(log_density, natural, prior)
    expected = partial(_expected, log_density, natural)
    (to_prior,) = jax.vjp(expected, prior)[1](-cotangent)
    return (natural - message).scale(cotangent), to_prior


free_kl.defvjp(_forward, _backward)
