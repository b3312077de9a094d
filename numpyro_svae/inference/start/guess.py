# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A guess of where all global posteriors start.

Components are spread over the data (k-means++ seeding and a few Lloyd steps) so that
none dies before it has been used; loadings start at principal directions, which breaks
their symmetry; dynamics start stable and slow, or, if a discrete chain picks them, as
regressions in regions of the data. Each start is the prior updated by
pseudo-observations, so that it is in the domain of its family whatever the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters, RegressionNatural
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.start.counts import (
    add_statistics,
    spread_counts,
    spread_rows,
)
from numpyro_svae.inference.start.dynamics import slow_dynamics
from numpyro_svae.inference.start.hierarchies import from_below, priors_alone
from numpyro_svae.inference.start.joins import of_joint, stand_in
from numpyro_svae.inference.start.members import Kind, guess_members
from numpyro_svae.inference.start.regressions import regressions, transitions
from numpyro_svae.program.factors import Factor

__all__ = ["Guess"]


@dataclass(frozen=True)
class Guess:
    """One guess of natural parameters.

    :param key: random key.
    :param kind: in what it differs from others.
    :param evidence: the factors; no moments of the blocks are read.
    :param paths: estimates of latent vectors and paths, by site.
    """

    key: Array
    kind: Kind
    evidence: Evidence
    paths: dict[str, Array]

    def naturals(self) -> dict[str, NaturalParameters]:
        """Natural parameters of all blocks."""
        evidence = self.evidence
        own = {name: self._block(name) for name in evidence.structure.priors}
        found = {name: start for name, start in own.items() if start is not None}
        return from_below(evidence.structure, evidence.bound, self._priors, found)

    @cached_property
    def _priors(self) -> dict[str, Any]:
        """Priors of all blocks, at the prior expectations of others."""
        return priors_alone(self.evidence.structure, self.evidence.bound)

    @cached_property
    def _members(self) -> dict[str, Array]:
        """Memberships ``(*positions, K)``, by what picks the components."""
        factors = self.evidence.structure.factors
        picks = [str(f.source.selector) for f in factors if f.source.selector]
        found = {}
        for index, name in enumerate(dict.fromkeys(picks)):
            key = random.fold_in(self.key, index) if index else self.key
            args = key, self.kind, self.evidence, name, self.paths
            found[name] = guess_members(*args)
        return found

    def _members_at(self, factor: Factor, prior: Any) -> Array:
        """Memberships where a factor is."""
        if factor.source.selector is not None:
            members = self._members[factor.source.selector]
            return self.evidence.spread_for(factor, members)
        data = self.evidence.bound.regressions[factor.site, factor.role]
        if data.members is None or not prior.batch_shape:
            return jnp.ones((*self.evidence.place(factor).positions, 1))
        return jax.nn.one_hot(data.members, prior.batch_shape[0], dtype=float)

    def _block(self, name: str) -> NaturalParameters | None:
        """Where a block starts that data or estimates say something of."""
        structure, bound = self.evidence.structure, self.evidence.bound
        prior = self._priors[name]
        for factor in structure.factors:
            if name not in structure.blocks_of(factor):
                continue
            if factor.form == "rows" and not factor.coupled:
                place, used = self.evidence.place(factor), jnp.ones(())
                if factor.site in structure.labels:  # all of it counts
                    place = place._replace(mask=None)
                if factor.site in self._members:
                    members = self._members[factor.site]
                    used = jnp.any(members.reshape(-1, members.shape[-1]) > 0, 0)
                picked = bound.picked.get((factor.site, factor.role))
                if picked is None:
                    return spread_counts(prior, place, 1.0 * used)
                size = structure.locals[factor.site].size
                before = size if factor.role == "transition" else 0
                return spread_rows(prior, picked, place, 1.0 * used, before)
            if factor.form == "statistics":
                if factor.source.selector is None:
                    continue
                data = bound.statistics[factor.site, factor.role]
                members = self._members_at(factor, prior)
                place = self.evidence.place(factor)
                return add_statistics(prior, data.log_prob, members, place)
            if factor.form == "regression":
                found = self._weights_and_noise(name, factor)
                if found is not None:
                    return found
        return None

    def _weights_and_noise(self, name: str, factor: Factor) -> NaturalParameters | None:
        """Where a block of a Gaussian factor starts, alone or joined with others."""
        structure, bound = self.evidence.structure, self.evidence.bound
        if not bound.active(factor.site, structure):
            return None
        block: Any = structure.priors[name]
        join = structure.joins.get(str(factor.source.prior))
        if join is None:
            prior = block.whole(self._priors[name])
        elif join.weights:
            noise = bound.regressions[factor.site, factor.role].noise
            prior = stand_in(join, self._priors, noise)
        else:
            return None
        start = self._regression(factor, prior)
        if start is None or join is None:
            return None if start is None else block.of_whole(start)
        return of_joint(block, join, self._priors, prior, start)

    def _regression(
        self, factor: Factor, prior: RegressionNatural
    ) -> RegressionNatural | None:
        site: Any = self.evidence.site(factor.site)
        switches = bool(prior.batch_shape)
        members = self._members_at(factor, prior)
        if factor.role == "transition" and (switches or not site.observed):
            path = site.value if site.observed else self.paths.get(factor.site)
            data = self.evidence.bound.regressions[factor.site, factor.role]
            if data.known is not None and not switches:
                return prior  # what is known says which coordinates these are
            if path is None or not switches:
                return slow_dynamics(self.key, prior, site.fn.event_shape[-1])
            return transitions(prior, factor, self.evidence, members, path)
        return regressions(prior, factor, self.evidence, members, self.paths)
