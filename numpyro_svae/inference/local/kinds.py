# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a kind of local site says of its inference."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from jax import Array

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import DiscreteBelief, StateBelief
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.kinds import LocalKind

__all__ = ["DiscreteKind", "GaussianKind"]


class DiscreteKind(LocalKind):
    """A kind of sites whose values are states."""

    discrete = True

    @abstractmethod
    def infer(
        self, factors: ExpectedFactors, name: str, message: Array
    ) -> DiscreteBelief:
        """The posterior of a site.

        :param factors: the factors.
        :param name: the site.
        :param message: the sum of messages to it but its prior's, ``(*positions, K)``.
        """

    @abstractmethod
    def expected_prior(
        self, factors: ExpectedFactors, name: str, belief: DiscreteBelief
    ) -> Array:
        """The log density of the prior expected of a posterior, by entry of the batch.

        Gradients of it with respect to the moments of global blocks are their natural
        gradients.
        """


class GaussianKind(LocalKind):
    """A kind of sites whose values are vectors, and whose posterior is Gaussian."""

    discrete = False

    @abstractmethod
    def infer(
        self,
        factors: ExpectedFactors,
        name: str,
        message: GaussianPotential,
        own: GaussianPotential | None,
    ) -> StateBelief:
        """The posterior of a site.

        :param factors: the factors, averaged over the states of their selectors.
        :param name: the site.
        :param message: the sum of messages to it but its prior's.
        :param own: its prior, where that is a factor of several sites.
        """

    @abstractmethod
    def expected_prior(
        self, factors: ExpectedFactors, name: str, belief: StateBelief
    ) -> Array:
        """The log density of the prior expected of a posterior, by entry of the batch.

        :param factors: the factors, averaged over the states of their selectors.
        """

    @abstractmethod
    def scores(
        self, factors: ExpectedFactors, factor: Any, belief: StateBelief
    ) -> Array:
        """The expected log density of one of its factors for each state that picks it,
        ``(*positions, K)``.

        :param factors: the factors, given for each state of their selectors.
        """
