# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations whose parameter a conjugate prior holds, and their statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import gammaln
import numpyro.distributions as dist

from numpyro_svae.families import GammaNatural
from numpyro_svae.program.priors import DirichletPrior, Prior
from numpyro_svae.program.rate_priors import BetaPrior, GammaPrior

__all__ = ["CATEGORICAL", "Observation", "observation_of"]

CATEGORICAL = dist.CategoricalProbs | dist.CategoricalLogits


class Observation(NamedTuple):
    """A kind of observation, ``log p(y) = <t, statistics(y)> + base(y)``.

    :param kinds: classes of distributions.
    :param parameter: the attribute that the prior is over.
    :param prior: the class of prior that is conjugate to it.
    :param statistics: maps the distribution and its value to the statistics, in the
        container of the moments of the prior, and to the log base measure, which has
        the shape of the value or less.
    """

    kinds: Any
    parameter: str
    prior: type[Prior]
    statistics: Callable[[Any, Array], tuple[Any, Array]]

    @property
    def conjugate(self) -> str:
        """Name of the conjugate distribution."""
        return self.prior.__name__.removesuffix("Prior")


def _categorical(fn: Any, y: Array) -> tuple[Array, Array]:
    return jax.nn.one_hot(y, fn.probs.shape[-1]), jnp.zeros(y.shape)


def _multinomial(fn: Any, y: Array) -> tuple[Array, Array]:
    base = gammaln(jnp.sum(y, -1) + 1.0) - jnp.sum(gammaln(y + 1.0), -1)
    return 1.0 * y, base


def _bernoulli(fn: Any, y: Array) -> tuple[Array, Array]:
    return jnp.stack([1.0 * y, 1.0 - y], -1), jnp.zeros(y.shape)


def _binomial(fn: Any, y: Array) -> tuple[Array, Array]:
    fails = fn.total_count - 1.0 * y
    whole = gammaln(fn.total_count + 1.0)
    base = whole - gammaln(y + 1.0) - gammaln(fails + 1.0)
    return jnp.stack([1.0 * y, fails], -1), base


def _geometric(fn: Any, y: Array) -> tuple[Array, Array]:
    return jnp.stack([jnp.ones(y.shape), 1.0 * y], -1), jnp.zeros(y.shape)


def _poisson(fn: Any, y: Array) -> tuple[GammaNatural, Array]:
    return GammaNatural(1.0 * y, jnp.ones(y.shape)), -gammaln(y + 1.0)


def _exponential(fn: Any, y: Array) -> tuple[GammaNatural, Array]:
    return GammaNatural(jnp.ones(y.shape), y), jnp.zeros(y.shape)


_MULTINOMIAL = dist.MultinomialProbs | dist.MultinomialLogits
_BERNOULLI = dist.BernoulliProbs | dist.BernoulliLogits
_BINOMIAL = dist.BinomialProbs | dist.BinomialLogits
_GEOMETRIC = dist.GeometricProbs | dist.GeometricLogits
_KINDS = (
    Observation(CATEGORICAL, "probs", DirichletPrior, _categorical),
    Observation(_MULTINOMIAL, "probs", DirichletPrior, _multinomial),
    Observation(_BERNOULLI, "probs", BetaPrior, _bernoulli),
    Observation(_BINOMIAL, "probs", BetaPrior, _binomial),
    Observation(_GEOMETRIC, "probs", BetaPrior, _geometric),
    Observation(dist.Poisson, "rate", GammaPrior, _poisson),
    Observation(dist.Exponential, "rate", GammaPrior, _exponential),
)


def observation_of(fn: dist.Distribution) -> Observation | None:
    """What kind of observation a distribution is; None if it is none of these."""
    return next((kind for kind in _KINDS if isinstance(fn, kind.kinds)), None)
