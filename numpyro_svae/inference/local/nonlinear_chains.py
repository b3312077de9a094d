# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The chains of a program that are not linear, and the linear steps in their place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.inference.factors.chains import chain_prior
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import message_to, potential_of
from numpyro_svae.inference.local.cubature import Rule
from numpyro_svae.inference.local.gradient_messages import remains
from numpyro_svae.inference.local.lane_solves import cholesky_of, whiten
from numpyro_svae.inference.local.learnt_transitions import (
    Transition,
    in_the_place_of_steps,
    spread_of_weights,
)
from numpyro_svae.inference.local.nonlinear_goals import gap_of, goal_of
from numpyro_svae.inference.local.nonlinear_start import (
    filtered_steps,
    resting_steps,
)
from numpyro_svae.inference.local.nonlinear_steps import (
    LinearSteps,
    Pairs,
    Points,
    linear_steps,
    points_of,
)
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.linearised import with_matrices
from numpyro_svae.program.run.positions import per_path
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.features import columns_of
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["AllSteps", "Chains", "nonlinear_names", "with_steps"]

Potentials = dict[str, GaussianPotential]
AllSteps = dict[str, LinearSteps]


def nonlinear_names(structure: Structure) -> tuple[str, ...]:
    """The chains of a program that are not linear."""
    return tuple(n for n, local in structure.locals.items() if local.kind.linearised)


@dataclass(frozen=True)
class Chains:
    """The chains of a program that are not linear, with their transitions.

    :param factors: the factors.
    :param transitions: how they move, by site.
    :param priors: chains with the first states and the noises that are expected.
    :param rule: how expectations are taken.
    """

    factors: ExpectedFactors
    transitions: dict[str, Transition]
    priors: dict[str, LinearGaussianChain]
    rule: Rule

    @classmethod
    def of(
        cls, factors: ExpectedFactors, likelihoods: Likelihoods, rule: Rule
    ) -> Chains:
        """Those of a program, which is run to look at them."""
        names = nonlinear_names(likelihoods.structure)
        found = {name: Transition.of(factors, likelihoods, name) for name in names}
        priors = {name: chain_prior(factors, name).chain for name in found}
        return cls(factors, found, priors, rule)

    def noise(self, name: str) -> Array:
        """The covariance of the noise, at all positions, ``(..., T, D, D)``."""
        cov = self.priors[name].transition_cov
        positions = self.factors.extent(name).positions
        steps = *positions[:-1], positions[-1] - 1
        cov = jnp.broadcast_to(cov, (*steps, *cov.shape[-2:]))
        last = jnp.eye(cov.shape[-1], dtype=cov.dtype)
        last = jnp.broadcast_to(last, (*positions[:-1], 1, *cov.shape[-2:]))
        return jnp.concatenate([cov, last], -3)

    def exists(self, name: str) -> Array:
        """Which steps there are, ``(..., T - 1)`` or less."""
        chain = self.transitions[name].chain
        later = jnp.arange(1, chain.num_steps)
        if chain.lengths is None:
            return later > 0
        return later < chain.lengths[..., None]

    # what takes their place

    def linear(self, steps: AllSteps) -> ExpectedFactors:
        """The factors, with linear steps in the place of those of the chains."""
        matrices = {name: found.matrices for name, found in steps.items()}
        return replace(self.factors, bound=with_steps(self.factors, matrices))

    def live(self, steps: AllSteps) -> tuple[Bound, AllSteps]:
        """Linear steps as functions of the parameters of the transitions.

        :return: the program with their matrices, and the steps with what the spread of
            weights says in what they leave over.
        """
        matrices, found = {}, dict(steps)
        for name, transition in self.transitions.items():
            before = steps[name].before
            points = points_of(self.rule, before)
            own, _ = linear_steps(transition.means, before, points)
            matrices[name] = steps[name].matrices + _change(own)
            if not transition.features.columns:
                continue  # nothing of the transition is uncertain
            placement, _ = linear_steps(transition.features_at, before, points)
            spread = spread_of_weights(transition.learnt, placement)
            own = jax.tree.map(_change, spread)
            found[name] = steps[name].with_leftover(own)
        return with_steps(self.factors, matrices), found

    def at_rest(self, wide: Array) -> AllSteps:
        """Steps of paths that stay where they begin.

        :param wide: whether they spread as their first states do.
        """
        at = {name: self.factors.extent(name).positions for name in self.priors}
        return {n: resting_steps(p, at[n], wide) for n, p in self.priors.items()}

    def start(self, potentials: Potentials) -> AllSteps:
        """Steps at the moments of a filter.

        :param potentials: what the sites are told by them.
        """
        found = {}
        for name, transition in self.transitions.items():
            message = self._messages_to(name, potentials)
            known = transition, self.priors[name], message
            found[name] = filtered_steps(*known, self.rule)
        return found

    def _messages_to(self, name: str, potentials: Potentials) -> GaussianPotential:
        """All that a chain is told, at all of its positions."""
        message = message_to(self.factors, name, potentials.get(name))
        positions, size = self.factors.extent(name).positions, message.dim
        info = jnp.broadcast_to(message.info_vector, (*positions, size))
        precision = message.full_precision()
        return GaussianPotential(
            info, jnp.broadcast_to(precision, (*positions, size, size))
        )

    # at a posterior

    def goals(
        self, marginals: dict[str, Any], potentials: Potentials
    ) -> tuple[AllSteps, dict[str, Array]]:
        """Where the messages of the steps are, given a posterior.

        :param marginals: the posteriors of the sites.
        :param potentials: what else the chains are told by potentials.
        :return: and what the chains add to the expected log density of their linear
            steps, per entry of their batch.
        """
        found, gaps = {}, {}
        for name, transition in self.transitions.items():
            beside = self._messages_to(name, potentials).precision[..., :-1, :, :]
            site: Any = self.factors.site(name)
            found[name], gap = goal_of(
                self.pairs(name, marginals[name]),
                transition,
                site.fn.transition_matrix,
                self.noise(name)[..., :-1, :, :],
                self.rule,
                beside,
                self.exists(name),
            )
            gaps[name] = self._of_paths(name, gap)
        return found, gaps

    def remains(self, name: str, steps: LinearSteps, goal: LinearSteps) -> Array:
        """How far steps are from their goal, at each position.

        In units of the posterior standard deviation of the state before a step and of
        the noise after it.
        """
        moments, cov = goal.moments, self.noise(name)
        change = goal.matrix - steps.matrix
        mean = jnp.concatenate([moments.mean, jnp.ones_like(moments.mean[..., :1])], -1)
        moved = change @ mean[..., None]
        turned = change[..., :-1] @ moments.tril
        both = jnp.concatenate([moved, turned], -1)
        white = whiten(cholesky_of(cov), both)
        far = jnp.max(jnp.abs(white), (-2, -1))
        return jnp.maximum(far, remains(moments, steps.leftover, goal.leftover))

    def gains(
        self,
        gaps: dict[str, Array],
        marginals: dict[str, Any],
        potentials: Potentials,
    ) -> dict[str, Array]:
        """What a posterior is chosen for beside the divergence from linear steps.

        :param gaps: what the chains add to the expected log density of these.
        :param marginals: the posteriors of the sites.
        :param potentials: what the recognition function says, which the expected log
            likelihood is not known beside.
        :return: by chain, per entry of its batch.
        """
        found = dict(gaps)
        for name in found.keys() & potentials.keys():
            path = marginals[name]
            recognised = potential_of(self.factors, name, potentials[name])
            message = recognised.expected(path.mean, path.covariance)
            message = per_path(jnp.sum(message, -1), self.factors.extent(name))
            found[name] = found[name] + message
        return found

    def corrected(
        self, marginals: dict[str, Any], points: dict[str, Points]
    ) -> dict[str, Array]:
        """What the chains add to the expected log density of their linear steps.

        :param marginals: the posteriors of the sites.
        :param points: by chain, where expectations are taken.
        :return: by chain, per entry of its batch.
        """
        found = {}
        for name, transition in self.transitions.items():
            site: Any = self.factors.site(name)
            gaps = gap_of(
                self.pairs(name, marginals[name]),
                transition,
                site.fn.transition_matrix,
                self.noise(name)[..., :-1, :, :],
                points[name],
            )
            found[name] = self._of_paths(name, gaps)
        return found

    def _of_paths(self, name: str, gaps: Array) -> Array:
        """What the steps of each path add, of those that there are."""
        gaps = jnp.sum(jnp.where(self.exists(name), gaps, 0.0), -1)
        return per_path(gaps, self.factors.extent(name))

    def pairs(self, name: str, path: Any) -> Pairs:
        """The moments of pairs of states of a path."""
        return Pairs.of(path, self.factors.extent(name).positions)


def with_steps(factors: ExpectedFactors, matrices: dict[str, Array]) -> Bound:
    """A program with its data, with linear steps in the place of those of its chains.

    :param factors: those of the program.
    :param matrices: by chain, ``[A, b]`` of its steps, ``(..., T - 1, D, D + 1)``.
    """
    bound = factors.bound
    for name, found in matrices.items():
        holder = factors.structure.holder(factors.own(name, "transition"))
        nothing = jnp.zeros((columns_of(holder), found.shape[-1]), found.dtype)
        bound = in_the_place_of_steps(bound, name, found, nothing)
        outer = with_matrices(bound.sites[name].outer, found)
        moved = replace(bound.sites[name], outer=outer)
        bound = replace(bound, sites=bound.sites | {name: moved})
    return bound


def _change(x: Array) -> Array:
    """Nothing, with the derivative of something."""
    return x - lax.stop_gradient(x)
