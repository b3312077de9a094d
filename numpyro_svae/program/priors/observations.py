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
from numpyro.distributions.conjugate import NegativeBinomialProbs

from numpyro_svae.families import GammaNatural
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.priors.rate_priors import BetaPrior, GammaPrior
from numpyro_svae.program.priors.table_priors import DirichletPrior
from numpyro_svae.program.run.classes import entries_by_class

__all__ = ["Observation", "observation_of", "register_observation"]


class Observation(NamedTuple):
    """A kind of observation, ``log p(y) = <t, statistics(y)> + base(y)``.

    :param kinds: classes of distributions.
    :param parameter: the attribute that the prior is over.
    :param prior: the class of prior that is conjugate to it.
    :param statistics: maps the distribution and its value to the statistics, in the
        container of the moments of the prior, and to the log base measure, which has
        the shape of the value or less.
    :param given: other attributes, which must be known.
    """

    kinds: Any
    parameter: str
    prior: type[Prior]
    statistics: Callable[[Any, Array], tuple[Any, Array]]
    given: tuple[str, ...] = ()

    def read(self, fn: Any) -> dict[str, Any]:
        """The parameter, and what else the distribution has."""
        found = getattr(fn, self.parameter, None)
        if found is None:  # as of a negative binomial that is given by logits
            found = jax.nn.sigmoid(fn.logits)
        return {self.parameter: found} | {n: getattr(fn, n) for n in self.given}

    @property
    def rows(self) -> bool:
        """Whether the parameter is a row of probabilities that sum to one."""
        return self.prior is DirichletPrior

    @property
    def priors(self) -> tuple[type[Prior], ...]:
        """The classes of priors that may hold the parameter."""
        return (DirichletPrior, BetaPrior) if self.rows else (self.prior,)

    @property
    def conjugate(self) -> str:
        """Names of the conjugate distributions."""
        names = [prior.__name__.removesuffix("Prior") for prior in self.priors]
        return " or ".join(names)


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


def _gamma(fn: Any, y: Array) -> tuple[GammaNatural, Array]:
    shape = jnp.broadcast_to(1.0 * fn.concentration, y.shape)
    return GammaNatural(shape, y), (shape - 1) * jnp.log(y) - gammaln(shape)


def _inverse_gamma(fn: Any, y: Array) -> tuple[GammaNatural, Array]:
    shape = jnp.broadcast_to(1.0 * fn.concentration, y.shape)
    return GammaNatural(shape, 1 / y), -(shape + 1) * jnp.log(y) - gammaln(shape)


def _negative_binomial(fn: Any, y: Array) -> tuple[Array, Array]:
    count = jnp.broadcast_to(1.0 * fn.total_count, y.shape)
    base = gammaln(y + count) - gammaln(count) - gammaln(y + 1.0)
    return jnp.stack([1.0 * y, count], -1), base


_CATEGORICAL = dist.CategoricalProbs | dist.CategoricalLogits
_MULTINOMIAL = dist.MultinomialProbs | dist.MultinomialLogits
_BERNOULLI = dist.BernoulliProbs | dist.BernoulliLogits
_BINOMIAL = dist.BinomialProbs | dist.BinomialLogits
_GEOMETRIC = dist.GeometricProbs | dist.GeometricLogits
_NEGATIVE = NegativeBinomialProbs | dist.NegativeBinomialLogits
_SHAPE, _TRIALS = ("concentration",), ("total_count",)
_KINDS = [
    Observation(_CATEGORICAL, "probs", DirichletPrior, _categorical),
    Observation(_MULTINOMIAL, "probs", DirichletPrior, _multinomial),
    Observation(_BERNOULLI, "probs", BetaPrior, _bernoulli),
    Observation(_BINOMIAL, "probs", BetaPrior, _binomial, _TRIALS),
    Observation(_GEOMETRIC, "probs", BetaPrior, _geometric),
    Observation(_NEGATIVE, "probs", BetaPrior, _negative_binomial, _TRIALS),
    Observation(dist.Poisson, "rate", GammaPrior, _poisson),
    Observation(dist.Exponential, "rate", GammaPrior, _exponential),
    Observation(dist.Gamma, "rate", GammaPrior, _gamma, _SHAPE),
    Observation(dist.InverseGamma, "rate", GammaPrior, _inverse_gamma, _SHAPE),
]


def register_observation(kind: Observation) -> None:
    """Make a kind of observation known.

    :param kind: the kind; it comes before those that are known.
    """
    _KINDS.insert(0, kind)


def observation_of(fn: dist.Distribution) -> Observation | None:
    """What kind of observation a distribution is; None if it is none of these."""
    return next(entries_by_class(((k.kinds, k) for k in _KINDS), fn), None)
