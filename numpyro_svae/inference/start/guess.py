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
import math
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters, RegressionNatural
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.start.bilinear import away_from_zero
from numpyro_svae.inference.start.counts import (
    add_statistics,
    spread_counts,
    spread_rows,
)
from numpyro_svae.inference.start.dynamics import slow_dynamics, slow_features
from numpyro_svae.inference.start.hierarchies import from_below, priors_alone
from numpyro_svae.inference.start.joins import of_joint, stand_in
from numpyro_svae.inference.start.members import Kind, guess_cells, guess_members
from numpyro_svae.inference.start.regressions import (
    by_assignment,
    regressions,
    residual_regressions,
    transitions,
)
from numpyro_svae.program.structure.factors import Factor

__all__ = ["Guess"]


@dataclass(frozen=True)
class Guess:
    """One guess of natural parameters.

    :param key: random key.
    :param kind: in what it differs from others.
    :param factors: the factors; no moments of the blocks are read.
    :param paths: estimates of latent vectors and paths, by site.
    """

    key: Array
    kind: Kind
    factors: ExpectedFactors
    paths: dict[str, Array]

    def naturals(self) -> dict[str, NaturalParameters]:
        """Natural parameters of all blocks."""
        factors = self.factors
        own = {name: self._block(name) for name in factors.structure.priors}
        found = {name: start for name, start in own.items() if start is not None}
        return from_below(factors.structure, factors.bound, self._priors, found)

    @cached_property
    def _priors(self) -> dict[str, Any]:
        """Priors of all blocks, at the prior expectations of others."""
        return priors_alone(self.factors.structure, self.factors.bound)

    @cached_property
    def _members(self) -> dict[str, Array]:
        """Memberships ``(*positions, K)``, by what picks the components."""
        factors = self.factors.structure.factors
        picks = [str(f.source.selector) for f in factors if f.source.selector]
        found = {}
        for index, name in enumerate(dict.fromkeys(picks)):
            key = random.fold_in(self.key, index) if index else self.key
            args = key, self.kind, self.factors, name, self.paths
            found[name] = guess_members(*args)
        return found

    def _members_at(self, factor: Factor, batch: tuple[int, ...]) -> Array:
        """Memberships where a factor is."""
        data = self.factors.bound.regressions.get((factor.site, factor.role))
        positions = self.factors.extent(factor).positions
        picks = None if data is None or not batch else data.members
        cells = None if picks is None else jax.nn.one_hot(picks, batch[0])
        if factor.source.selector is not None:
            members = self._members[factor.source.selector]
            members = self.factors.spread_for(factor, members)
            if cells is None:
                return members
            return jnp.einsum("...k,...kb->...b", members, cells)
        if cells is None:
            if data is None or not factor.selectors or not by_assignment(factor):
                return jnp.ones((*positions, 1))
            local = self.factors.structure.locals
            return self._cells(
                factor, math.prod(local[n].size for n in factor.selectors)
            )
        if factor.form == "regression" and factor.selectors:
            return self._cells(factor, batch[0])
        return 1.0 * cells

    def _cells(self, factor: Factor, size: int) -> Array:
        """Memberships ``(*positions, size)`` where several sites pick."""
        key, paths = self.key, self.paths
        return guess_cells(key, self.kind, self.factors, factor, size, paths)

    def _block(self, name: str) -> NaturalParameters | None:
        """Where a block starts that data or estimates say something of."""
        structure, bound = self.factors.structure, self.factors.bound
        prior = self._priors[name]
        for factor in structure.factors:
            if name not in structure.blocks_of(factor):
                continue
            if factor.form == "rows" and not factor.coupled:
                extent, used = self.factors.extent(factor), jnp.ones(())
                if factor.site in structure.labels:  # known or not
                    whole = factor.role == "value"
                    mask = self.factors.extent(factor.site).mask if whole else None
                    extent = extent._replace(mask=mask)
                if factor.site in self._members:
                    members = self._members[factor.site]
                    used = jnp.any(members.reshape(-1, members.shape[-1]) > 0, 0)
                picked: Any = bound.picked.get((factor.site, factor.role))
                if picked is None:
                    return spread_counts(prior, extent, 1.0 * used)
                if factor.source.prior in structure.joins:
                    picked = picked.of(name)
                size = structure.locals[factor.site].size
                before = size if factor.role == "transition" else 0
                return spread_rows(prior, picked, extent, 1.0 * used, before)
            if factor.form == "statistics":
                if factor.source.selector is None:
                    continue
                factor = self._largest(factor)
                data = bound.statistics[factor.site, factor.role]
                members = self._members_at(factor, prior.batch_shape)
                extent = self.factors.extent(factor)
                return add_statistics(prior, data.log_prob, members, extent)
            if factor.form == "bilinear":
                kind: Any = structure.holder(factor)
                if name in kind.multiplied and bound.active(factor.site, structure):
                    value = bound.bilinear[factor.site].value
                    return away_from_zero(self._key_of(name), prior, value)
            if factor.form == "regression":
                found = self._weights_and_noise(name, self._largest(factor))
                if found is not None:
                    return found
        return self._weights_of_predictors(name)

    def _key_of(self, name: str) -> Array:
        """A random key for each block."""
        index = list(self.factors.structure.priors).index(name)
        return random.fold_in(self.key, index)

    def _largest(self, factor: Any) -> Any:
        """That with most data of an observed factor and those that are like it.

        In a scan the first state of a path may be observed by a site of its own.
        """
        if not self.factors.site(factor.site).observed or factor.role != "value":
            return factor
        like = [
            other
            for other in self.factors.observed(factor.form, role="value")
            if other.source == factor.source and other.parents == factor.parents
        ]
        return max([factor, *like], key=self._size)

    def _size(self, factor: Any) -> int:
        return math.prod(self.factors.extent(factor).positions)

    def _weights_of_predictors(self, name: str) -> NaturalParameters | None:
        """Where the weights of regressions start that are not conjugate."""
        found, bound = None, self.factors.bound
        every: list[Any] = [*bound.predictors.values(), *bound.weights.values()]
        for predictors in every:
            if name in (block.name for block in predictors.blocks):
                if getattr(predictors, "parent", "") in self.paths:
                    predictors = predictors.beside(self.paths[predictors.parent])
                found = self._priors[name] if found is None else found
                latent = predictors.site in self.factors.structure.locals
                scale = 1.0 if latent else self.factors.site(predictors.site).scale
                args = name, found, self._priors, scale
                found = predictors.narrow(self.key, *args)
        return found

    def _weights_and_noise(self, name: str, factor: Factor) -> NaturalParameters | None:
        """Where a block of a Gaussian factor starts, alone or joined with others."""
        structure, bound = self.factors.structure, self.factors.bound
        if not bound.active(factor.site, structure):
            return None
        block: Any = structure.priors[name]
        join: Any = structure.joins.get(str(factor.source.prior))
        if join is None:
            found = self._regression(factor, block.whole(self._priors[name]))
            return None if found is None else block.of_whole(found)
        if not join.weights:
            return None
        noise = bound.regressions[factor.site, factor.role].noise
        prior = stand_in(join, self._priors, noise)
        if self._moves(factor, prior.df.shape):
            moved = self._regression(factor, prior.natural())
            start = None if moved is None else moved.to_standard()
        else:
            members = self._members_at(factor, prior.df.shape)
            args = factor, self.factors, members, self.paths
            start = residual_regressions(prior, *args)
        if start is None:
            return None
        return of_joint(block, join, self._priors, prior, start)

    def _moves(self, factor: Factor, batch: tuple[int, ...]) -> bool:
        """Whether a factor is a step whose states or dynamics are not known."""
        latent = not self.factors.site(factor.site).observed
        return factor.role == "transition" and (bool(batch) or latent)

    def _has_features(self, factor: Factor) -> bool:
        """Whether a factor is a step that is not linear."""
        return self.factors.local(factor.site).kind.linearised

    def _regression(
        self, factor: Any, prior: RegressionNatural
    ) -> RegressionNatural | None:
        site: Any = self.factors.site(factor.site)
        switches = bool(prior.batch_shape)
        members = self._members_at(factor, prior.batch_shape)
        if self._moves(factor, prior.batch_shape):
            path = site.value if site.observed else self.paths.get(factor.site)
            data: Any = self.factors.bound.regressions[factor.site, factor.role]
            given = data.known is not None or data.fixed is not None
            if given and not switches:
                if not site.observed and self._has_features(factor):
                    return slow_features(prior, data.known, data.placement)
                return prior  # what is known says which coordinates these are
            if path is None or not switches:
                return slow_dynamics(self.key, prior, site.fn.event_shape[-1])
            return transitions(prior, factor, self.factors, members, path)
        return regressions(prior, factor, self.factors, members, self.paths)
