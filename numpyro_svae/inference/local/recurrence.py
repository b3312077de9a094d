# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

r"""Discrete sites whose probabilities are any function of a latent vector.

With :math:`q(z) q(x)` the factor is the expectation

.. math:: E = \sum q(z_{t-1}, z_t)\, E_{q(x)} \log p(z_t \mid z_{t-1}, x_{t-1}),

in which the inner one, by cubature, is a message of logits to z, for each pair of
states of each step of a chain, and the gradient of E in the moments of x is a potential
of x. The factor is that of Linderman et al., *Bayesian learning and inference in
recurrent switching linear dynamical systems*, AISTATS 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro_svae.blocks.discrete_chain import pair_probs
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import DiscreteBelief, StateBelief
from numpyro_svae.inference.local.gradient_messages import VectorMoments, message_of
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import clean
from numpyro_svae.program.structure.groups import Group

__all__ = ["IMPOSSIBLE", "Recurrence", "Said", "moments_of_state"]

IMPOSSIBLE = -1e4  # a log probability that is none in any precision, and finite


class Said(NamedTuple):
    """What the factors say to the discrete sites.

    :param rows: expected logs of the probabilities of the sites.
    :param pulls: from what counts of these, to gradients in moments of the vectors.
    :param weight: that the factors have.
    """

    rows: dict[str, Array]
    pulls: dict[str, Callable]
    weight: Array


class Recurrence:
    """The factors of some discrete sites that depend on latent vectors.

    :param factors: the factors of the program.
    :param discrete: the discrete sites.
    """

    def __init__(self, factors: ExpectedFactors, discrete: tuple[str, ...]) -> None:
        self.factors = factors
        self.coupled = [
            factor
            for factor in factors.structure.factors
            if factor.form == "logits" and factor.site in discrete
        ]

    @classmethod
    def of(cls, factors: ExpectedFactors, group: Group) -> Recurrence:
        """Those of a group of sites."""
        return cls(factors, group.discrete)

    def __bool__(self) -> bool:
        return bool(self.coupled)

    def given(self, rows: dict[str, Array]) -> ExpectedFactors:
        """The factors of the program with these rows."""
        return replace(self.factors, expected_rows={**rows})

    def given_nothing(self) -> ExpectedFactors:
        """The factors of the program with rows that say nothing."""
        return self.given({f.site: jnp.zeros(self._shape(f)) for f in self.coupled})

    def expected(self, states: dict[str, StateBelief]) -> ExpectedFactors:
        """The factors of the program with the rows that are expected.

        :param states: posteriors of the vectors.
        """
        rows = {}
        for factor in self.coupled:
            moments = moments_of_state(states[factor.parent])
            rows[factor.site] = self._rows(factor, moments)
        return self.given(rows)

    def _rows(self, factor: Any, moments: VectorMoments) -> Array:
        """What is expected under the vectors, and under weights that are latent."""
        bound, key = self.factors.bound, (factor.site, factor.role)
        if not factor.weights:
            return bound.logits[factor.site].expected(*moments)
        weights: Any = bound.weights[key]

        def at(value: Array) -> Array:
            rows = weights.beside(value).average(self.factors.moments)
            return jnp.broadcast_to(rows, self._shape(factor))

        return bound.logits[factor.site].expected(*moments, at)

    def _shape(self, factor: Any) -> tuple[int, ...]:
        extent, local = self.factors.extent(factor), self.factors.local(factor.site)
        return (*extent.positions, *(local.size,) * (1 + local.chain))

    def say(self, states: dict[str, StateBelief], weight: Array) -> Said:
        """What the factors say to the discrete sites, given posteriors of the vectors.

        :param states: these.
        :param weight: of what the vectors have to do with the discrete sites.
        """
        rows, pulls = {}, {}
        for factor in self.coupled:

            def usable(moments: VectorMoments, factor: Any = factor) -> Array:
                return jnp.maximum(self._rows(factor, moments), IMPOSSIBLE)

            moments, name = moments_of_state(states[factor.parent]), factor.site
            found, pulls[name] = jax.vjp(usable, moments)
            found = jnp.nan_to_num(found, nan=IMPOSSIBLE)
            rows[name] = found + (1.0 - weight) * (self._begun(factor, found) - found)
        return Said(rows, pulls, weight)

    def answer(
        self,
        said: Said,
        states: dict[str, StateBelief],
        discrete: dict[str, DiscreteBelief],
    ) -> dict[str, GaussianPotential]:
        """What the factors say to the vectors, given posteriors of both.

        :param said: what they say to the discrete sites, given the same vectors.
        :param states: posteriors of the vectors.
        :param discrete: those of the discrete sites.
        """
        potentials: dict[str, GaussianPotential] = {}
        for factor in self.coupled:
            name, parent = factor.site, factor.parent
            counted = self.counted(factor, discrete[name])
            (gradient,) = said.pulls[name](said.weight * counted)
            message = message_of(moments_of_state(states[parent]), gradient)
            message = jax.tree.map(jnp.nan_to_num, message)
            before = potentials.get(parent)
            potentials[parent] = message if before is None else before + message
        return potentials

    def no_answer(self) -> dict[str, GaussianPotential]:
        """What they say to the vectors before anything is known."""
        found = {}
        for name in dict.fromkeys(factor.parent for factor in self.coupled):
            size, extent = self.factors.local(name).size, self.factors.extent(name)
            zeros = jnp.zeros((*extent.positions, size))
            found[name] = GaussianPotential(zeros, jnp.zeros((*zeros.shape, size)))
        return found

    def _begun(self, factor: Any, rows: Array) -> Array:
        """The rows that sweeps begin with, where the vectors are left out.

        They are the same at all steps of a sequence: how much more probable a state is
        after one state than after others, on average. How probable it is in all would
        feed on itself, and states die out. Without a state before nothing is left.
        """
        if not self.factors.local(factor.site).chain:
            return jnp.zeros_like(rows)
        mean = logsumexp(rows, -3, keepdims=True)
        return mean - jnp.mean(mean, -2, keepdims=True)

    def counted(self, factor: Any, belief: DiscreteBelief) -> Array:
        """How often each of the rows' entries counts beside the vector."""
        extent, local = self.factors.extent(factor), self.factors.local(factor.site)
        probs = belief.probs
        if local.chain:
            probs = pair_probs(probs, belief.steps)
        probs = clean(extent, probs, 1 + local.chain)
        share = extent.scale / self.factors.extent(factor.parent).scale
        missing = tuple(range(-(probs.ndim - jnp.ndim(share)), 0))
        return probs * jnp.expand_dims(jnp.asarray(share), missing)


def moments_of_state(belief: StateBelief) -> VectorMoments:
    """Of a posterior, at its positions."""
    return VectorMoments(belief.mean, jnp.linalg.cholesky(belief.covariance))
