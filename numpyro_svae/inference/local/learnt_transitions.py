# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

r"""Transitions ``k(x, u) + F phi(x, u)``, whose weights and noise may be learnt.

Of :math:`E_q \log N(x'; k + F \phi, Q)` under the posterior of (F, Q) there is, as of
any regression, a Gaussian with the weights W and the covariance C that are expected, a
constant, and

.. math:: -\tfrac12 \phi^T E \phi, \qquad E = E_q[F^T Q^{-1} F] - W^T C^{-1} W,

which is a function of the state before the step, and so a part of what a step leaves
over. A transition that is known is the case without features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jax import Array
import jax.numpy as jnp

from numpyro_svae.distributions import NonlinearGaussianChain
from numpyro_svae.families import ExpectedRegression
from numpyro_svae.families.matrices import matvec
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.structure.features import Features
from numpyro_svae.program.structure.likelihoods import Likelihoods
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["Transition", "in_the_place_of_steps", "spread_of_weights"]


@dataclass(frozen=True)
class Transition:
    """The transition of a chain that is not linear.

    :param features: the functions k and phi.
    :param learnt: moments of (F, Q), at the steps.
    """

    features: Features
    learnt: ExpectedRegression

    @classmethod
    def of(
        cls, factors: ExpectedFactors, likelihoods: Likelihoods, name: str
    ) -> Transition:
        """That of a chain of a program, which is run to look at it.

        :param factors: the factors. It does not matter which linear steps are in the
            place of those of the chain.
        :param likelihoods: the program.
        :param name: the site of the chain.
        """
        structure, factor = factors.structure, factors.own(name, "transition")

        def run(values: dict[str, Any]) -> dict[str, dict]:
            return plain_run(likelihoods.program, structure, values)

        found = Features.of(run, structure.holder(factor), name)
        size, columns = factors.local(name).size, found.columns
        plain = jnp.zeros((size, columns)), jnp.eye(columns)
        bound = in_the_place_of_steps(factors.bound, name, *plain)
        return cls(found, replace(factors, bound=bound).regression(factor))

    @property
    def chain(self) -> NonlinearGaussianChain:
        """The chain with weights of zero."""
        return self.features.chain

    # at all steps

    def means(self, states: Array) -> Array:
        """The means that are expected after states ``(..., T - 1, D)``."""
        return self.means_and_costs(states)[0]

    def means_and_costs(self, states: Array) -> tuple[Array, Array]:
        r"""These, and :math:`\phi^T E \phi / 2`, of shape ``(..., T - 1)``."""
        known, features = self.features.parts(lambda chain: chain.means(states))
        spread = matvec(self.learnt.excess, features)
        costs = 0.5 * jnp.sum(features * spread, -1)
        return known + matvec(self.learnt.weight, features), costs

    def features_at(self, states: Array) -> Array:
        """The features of states ``(..., T - 1, D)``."""
        return self.features.parts(lambda chain: chain.means(states))[1]

    # at one step

    def steps(self, positions: tuple[int, ...]) -> Any:
        """What belongs to the steps, with time leading.

        :param positions: of the steps, ``(..., T - 1)``.
        """
        weight = self.learnt.weight
        weight = jnp.broadcast_to(weight, (*positions, *weight.shape[-2:]))
        return self.chain.steps(), jnp.moveaxis(weight, len(positions) - 1, 0)

    def step(self, x: Array, given: Any) -> Array:
        """The means after one step.

        :param x: states, ``(..., D)``.
        :param given: what :meth:`steps` says of it.
        """
        u, weight = given
        known, features = self.features.parts(lambda chain: chain.step(x, u))
        return known + matvec(weight, features)


def spread_of_weights(
    learnt: ExpectedRegression, placement: Array
) -> tuple[Array, Array]:
    r""":math:`-\phi^T E \phi / 2` of features ``S [x; 1]``: a vector and a precision.

    :param learnt: moments of (F, Q).
    :param placement: S, of shape ``(..., M, D + 1)``.
    """
    spread = jnp.swapaxes(placement, -1, -2) @ learnt.excess @ placement
    return -spread[..., :-1, -1], spread[..., :-1, :-1]


def in_the_place_of_steps(
    bound: Bound, name: str, known: Array, placement: Array
) -> Bound:
    """A program with its data, with another regression in the place of steps.

    :param name: the site of the chain.
    :param known: K of ``N(x'; (K + F S) w, Q)``, of shape ``(..., D, P)``.
    :param placement: S, of shape ``(M, P)``.
    """
    key = name, "transition"
    moved = bound.regressions[key]._replace(known=known, placement=placement)
    return replace(bound, regressions=bound.regressions | {key: moved})
