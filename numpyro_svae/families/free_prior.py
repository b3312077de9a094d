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
from functools import partial
from math import log
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from numpyro_svae.families.gamma import GammaNatural

__all__ = ["closest_gamma", "free_kl"]

LogDensity = Callable[[Any, Array], Array]
_NODES, _LOG_TAIL = 600, 37.0  # exp(-37) is the rounding of float64


def _nodes(natural: GammaNatural) -> tuple[Array, Array]:
    """Logs of the value in units of its mean, and weights, ``(N, ...)``.

    The trapezoidal rule converges exponentially for the log of a Gamma, whose density
    is analytic and has exponential tails. In single precision they end where the square
    of a value would overflow.
    """
    a = natural.concentration
    wide = jnp.sqrt(2 * _LOG_TAIL / a)
    left = wide + 3 * _LOG_TAIL / a  # densities may fall as fast as 1 / value
    left = jnp.minimum(left, 0.45 * log(jnp.finfo(left.dtype).max))
    right = jnp.minimum(wide, jnp.log1p(2 * _LOG_TAIL / a) + 1.0)
    unit = jnp.linspace(0.0, 1.0, _NODES).reshape(-1, *(1,) * jnp.ndim(a))
    s = unit * (left + right) - left
    logs = -a * (jnp.expm1(s) - s)
    weights = jnp.exp(logs - jnp.max(logs, 0))
    return s, weights / jnp.sum(weights, 0)


def _logs(natural: GammaNatural, s: Array) -> Array:
    """The log of the value, from that in units of the mean."""
    return s + jnp.log(natural.concentration) - jnp.log(natural.rate)


def closest_gamma(
    log_density: LogDensity, natural: GammaNatural, prior: Any
) -> GammaNatural:
    """The message of a prior to a Gamma posterior.

    :param log_density: of the log of the value, of the shape of the value.
    :param natural: the posterior.
    :param prior: the prior, the first argument of the density.
    :return: natural parameters, which may be outside of their domain.
    """
    s, weights = _nodes(natural)

    def dot(x: Array, y: Array) -> Array:
        return jnp.sum(weights * x * y, 0)

    # log p = c + slope s + bend (exp(s) - 1 - s) + what the Gamma cannot say
    values = log_density(prior, _logs(natural, s))
    one = jnp.ones_like(s)
    first = s - dot(one, s)
    second = jnp.expm1(s) - s
    second = second - dot(one, second)
    along = dot(first, second) / dot(first, first)
    second = second - along * first
    values = values - dot(one, values)
    bend = dot(second, values) / dot(second, second)
    slope = dot(first, values) / dot(first, first) - along * bend
    rate = -bend * natural.rate / natural.concentration
    return GammaNatural(slope - bend, rate)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def free_kl(log_density: LogDensity, natural: GammaNatural, prior: Any) -> Array:
    """The divergence of a Gamma from a prior, with the natural gradient.

    :param log_density: of the log of the value, of the shape of the value.
    :param natural: the posterior.
    :param prior: the prior, a pytree.
    :return: the divergence, of the batch shape of the posterior.
    """
    return _entropy_term(natural) - _expected(log_density, natural, prior)


def _entropy_term(natural: GammaNatural) -> Array:
    """What is expected of the log density of the log of a Gamma."""
    a = natural.concentration
    return a * digamma(a) - a - gammaln(a)


def _expected(log_density: LogDensity, natural: GammaNatural, prior: Any) -> Array:
    s, weights = _nodes(natural)
    return jnp.sum(weights * log_density(prior, _logs(natural, s)), 0)


def _forward(log_density: LogDensity, natural: Any, prior: Any) -> tuple[Array, tuple]:
    return free_kl(log_density, natural, prior), (natural, prior)


def _backward(log_density: LogDensity, known: tuple, cotangent: Array) -> tuple:
    natural, prior = known
    message = closest_gamma(log_density, natural, prior)
    expected = partial(_expected, log_density, natural)
    (to_prior,) = jax.vjp(expected, prior)[1](-cotangent)
    return (natural - message).scale(cotangent), to_prior


free_kl.defvjp(_forward, _backward)
