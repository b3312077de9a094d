# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior of the local sites of a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.inference.local.fixed_point import Solution
from numpyro_svae.inference.local.joint_draw import JointDraw
from numpyro_svae.program.run.ordered import register_in_order
from numpyro_svae.program.run.parts import label_of, whole_name
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.run.wrappers import peel

__all__ = ["Convergence", "LocalPosterior"]


@jax.tree_util.register_dataclass
@dataclass
class Convergence:
    """How coordinate ascent ended.

    :param sweeps: number of sweeps.
    :param residual: relative change of the last sweep in units of the tolerance:
        converged means one or less. It is one at most for data that ten sweeps have
        got no further, by bound or by distance, where it was more.
    :param adjoint: whether implicit gradients are solved for there. Where they are not,
        the gradient of one sweep takes their place. None if that was not looked at.
    :param gain: where a recognition function's potentials were refined, how much the
        bound has risen in nats, by datum, which is the amortisation gap; else None.
    """

    sweeps: Array
    residual: Array
    adjoint: Array | None = None
    gain: Array | None = None


@register_in_order
@dataclass
class LocalPosterior:
    """The posterior of the local sites of a program.

    :param marginals: for each local site, its marginal distribution.
    :param kl: divergences from the expected prior, per entry of the batch.
    :param expected_log_prob: closed-form likelihood terms, by observed site.
    :param totals: the likelihood terms less the divergences, each times the scale of
        its site, summed over all entries and the sites of each group; by a site of the
        group.
    :param impossible: whether data have probability zero, per entry of the batch, by
        the discrete site that they belong to, or by their own without local parents.
    :param average: probabilities of the discrete sites that likelihoods are to be
        averaged over.
    :param components: of the Gaussian sites that are mixtures over a discrete site.
    :param draws: of the graphs, how to draw their sites together.
    :param convergence: of the coordinate ascent of coupled sites, by site.
    """

    marginals: dict[str, dist.Distribution] = field(default_factory=dict)
    kl: dict[str, Array] = field(default_factory=dict)
    expected_log_prob: dict[str, Array] = field(default_factory=dict)
    totals: dict[str, Array] = field(default_factory=dict)
    impossible: dict[str, Array] = field(default_factory=dict)
    average: dict[str, Array] = field(default_factory=dict)
    components: dict[str, dist.MultivariateNormal] = field(default_factory=dict)
    draws: list[JointDraw] = field(default_factory=list)
    convergence: dict[str, Convergence] = field(default_factory=dict)

    def add(self, name: str, marginal: dist.Distribution, kl: Array) -> None:
        """Add a site."""
        self.marginals[name] = marginal
        self.kl[name] = kl

    def expect(self, terms: dict[str, Array]) -> None:
        """Add closed-form likelihood terms to those of their sites."""
        for name, value in terms.items():
            known = self.expected_log_prob.get(name)
            self.expected_log_prob[name] = value if known is None else known + value

    def add_discrete(self, name: str, belief: Any, kl: Array) -> None:
        """Add a discrete site, whose divergence is infinite if data are impossible."""
        self.add(name, belief.marginal, jnp.where(belief.possible, kl, jnp.inf))
        self.impossible[name] = ~belief.possible

    def include(self, group: LocalPosterior, total: Array) -> None:
        """Add the sites of a group, with likelihood terms and total."""
        self.expect(group.expected_log_prob)
        self.totals[next(iter(group.marginals))] = total
        self.draws += group.draws
        for name in (
            "marginals",
            "kl",
            "impossible",
            "average",
            "components",
            "convergence",
        ):
            getattr(self, name).update(getattr(group, name))

    def record(
        self, names: tuple[str, ...], solution: Solution, adjoint: Array | None
    ) -> None:
        """Add how the ascent of a group of sites ended."""
        ended = Convergence(solution.sweeps, solution.residual, adjoint)
        self.convergence |= dict.fromkeys(names, ended)

    def given(self, name: str, states: Array | None) -> dist.Distribution:
        """Distribution of a site given the states at its positions, if it needs them.

        :param states: of the discrete site that picks its components, ``(*positions)``.
        """
        parts = self.components.get(name)
        if parts is None or states is None:
            return self.marginals[name]
        # Positions may share a state, along axes that it does not have.
        index = jnp.broadcast_to(states, parts.loc.shape[:-2])[..., None, None]
        loc = jnp.take_along_axis(parts.loc, index, -2)[..., 0, :]
        tril = jnp.take_along_axis(parts.scale_tril, index[..., None], -3)
        gaussian = dist.MultivariateNormal(
            loc, scale_tril=tril[..., 0, :, :], validate_args=False
        )
        return gaussian.to_event(self.marginals[name].event_dim - 1)

    def shown(self, sites: Mapping[str, Site]) -> dict[str, dist.Distribution]:
        """Marginals by site, what ``obs_mask`` leaves out with what it does not.

        A label or vector that is known in part has the name of the program, and is
        certain where it is known. Paths have ``_unobserved`` in their names.

        :param sites: all sites.
        """
        found = {}
        for name, marginal in self.marginals.items():
            base, known = peel(marginal)[0], sites.get(str(label_of(name)))
            whole = whole_name(sites, name)
            if known is not None and isinstance(base, dist.MultivariateNormal):
                found[whole] = _certain(marginal, base, known)
            elif known is not None and isinstance(base, dist.CategoricalLogits):
                found[whole] = marginal
            else:
                found[name] = marginal
        return found


def _certain(
    marginal: dist.Distribution, base: dist.MultivariateNormal, known: Site
) -> dist.Distribution:
    """A Gaussian that is a point where its vector is known."""
    if known.mask is None:
        return marginal
    seen = jnp.broadcast_to(known.mask, known.positions)[..., None]
    loc = jnp.where(seen, known.value, base.loc)
    tril = jnp.where(seen[..., None], 0.0, base.scale_tril)
    fn = dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)
    return fn.to_event(marginal.event_dim - 1)
