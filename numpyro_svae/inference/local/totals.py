# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The sum of the likelihood terms and divergences of a group of local sites.

With F(q, p) for this sum, the posterior q of a group is what makes F(q, p) + E_q[what
the recognition function says] largest, whatever the parameters of the factors p are. So
F has the derivative

    dF  =  F_p dp - d E_q[message] with the messages held fixed

and nothing is differentiated through inference where no recognition function speaks.
Every term of F is made of residuals and log determinants: log normalisers, which would
give the same sum, are small differences of large numbers where data are large beside
their noise.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.posterior import LocalPosterior

__all__ = ["Belief", "optimal_total", "sum_of_terms"]


class Belief(Protocol):
    """The posterior of a group, a pytree."""

    @property
    def moments(self) -> Any:
        """What expectations of potentials need of it."""

    def add_to(self, posterior: LocalPosterior, factors: ExpectedFactors) -> None:
        """Add the sites and their divergences, and what is expected of observations."""

    @staticmethod
    def expected(
        factors: ExpectedFactors, potentials: dict[str, Any], moments: Any
    ) -> Array:
        """What the recognition function says, times the scales of its sites."""


def sum_of_terms(factors: ExpectedFactors, posterior: LocalPosterior) -> Array:
    """The total of any posterior, term by term."""
    gains = {name: jnp.sum(v) for name, v in posterior.expected_log_prob.items()}
    losses = {name: -jnp.sum(value) for name, value in posterior.kl.items()}
    terms = (*gains.items(), *losses.items())
    scaled = (factors.site(name).scale * value for name, value in terms)
    return sum(scaled, jnp.zeros(()))


def optimal_total(
    factors: ExpectedFactors, potentials: dict[str, Any], belief: Belief, value: Array
) -> Array:
    """A total with the derivative that it has where a posterior is the best one.

    It is a function of parameters and posterior, and may be differentiated again.

    :param factors: the factors.
    :param potentials: what the recognition function says of the sites of a group.
    :param belief: the best posterior of the group.
    :param value: the total.
    """
    structure, kind = factors.structure, type(belief)

    def total_at(parameters: tuple, belief: Belief) -> Array:
        given, posterior = ExpectedFactors(structure, *parameters), LocalPosterior()
        belief.add_to(posterior, given)
        return sum_of_terms(given, posterior)

    @jax.custom_vjp
    def total(value: Array, *given: Any) -> Array:
        return value

    def forward(value: Array, *given: Any) -> tuple[Array, tuple]:
        return value, given

    def backward(given: tuple, cotangent: Array) -> tuple:
        parameters, potentials, moments, belief = given
        _, pull = jax.vjp(lambda p: total_at(p, belief), parameters)
        to_moments = None
        if potentials:
            message = partial(
                kind.expected, ExpectedFactors(structure, *parameters), potentials
            )
            (to_moments,) = jax.vjp(message, moments)[1](-cotangent)
        return None, *pull(cotangent), None, to_moments, None

    total.defvjp(forward, backward)
    parameters = factors.bound, factors.moments
    return total(value, parameters, potentials, belief.moments, belief)
