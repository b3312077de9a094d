# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The factors of a bound program at the current expectations of the globals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.densities import log_density
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.bind.bound_regressions import BoundRegression
from numpyro_svae.program.priors.joins import nothing_learnt
from numpyro_svae.program.run.positions import (
    Extent,
    clean,
    extent_of,
    per_entry,
    pull_to,
    read_at,
)
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import (
    Factor,
    GaussianFactor,
    Local,
    Structure,
)
from numpyro_svae.program.structure.labels import counted_labels

__all__ = ["ExpectedFactors"]


@dataclass(frozen=True)
class ExpectedFactors:
    """Messages of the factors of a program.

    :param structure: the wiring.
    :param bound: the data.
    :param moments: moments of the globals by block, as
        :func:`numpyro_svae.families.expected` reads them.
    :param probs: probabilities ``(*positions, K)`` of the discrete sites that factors
        are averaged over; a factor with another selector is given for each state, with
        the states as the last batch axis.
    :param expected_rows: expected logs of the probabilities of discrete sites that are
        functions of a latent vector, by site.
    :param weighted_rows: those of functions of the weights of Gaussian blocks, by site
        and role, where they have been computed from the moments.
    """

    structure: Structure
    bound: Bound
    moments: dict[str, Any]
    probs: dict[str, Array] = field(default_factory=dict)
    expected_rows: dict[str, Array] = field(default_factory=dict)
    weighted_rows: dict[tuple[str, str], Array] = field(default_factory=dict)

    def given(self, probs: dict[str, Array]) -> ExpectedFactors:
        """The same, with factors averaged over the states of discrete sites."""
        return replace(self, probs=probs)

    def with_weighted_rows(self) -> ExpectedFactors:
        """The same, which need not average logits over their weights any more.

        Those that depend on a latent vector too are averaged with it.
        """
        bound = self.bound.weights.items()
        found = {k: w.average(self.moments) for k, w in bound if not w.parent}
        return replace(self, weighted_rows=found)

    # what there is

    def local(self, name: str) -> Local:
        """The local site with a given name."""
        return self.structure.locals[name]

    def site(self, name: str) -> Site:
        """The site with a given name."""
        return self.bound.sites[name]

    def extent(self, factor: Factor | str) -> Extent:
        """Where a factor is, or a local site."""
        if isinstance(factor, str):
            extent = extent_of(self.site(factor))
            if factor in self.structure.labels:
                return extent._replace(mask=counted_labels(self.bound.sites, factor))
            return self._uncounted(factor, extent)
        if factor.form == "density":
            return self.bound.tables[factor.site].extent
        extent = extent_of(self.site(factor.site), factor.role, factor.event_dim)
        return self._uncounted(factor.site, extent)

    def _uncounted(self, name: str, extent: Extent) -> Extent:
        """An extent of which nothing counts, if its site is a leaf."""
        if name not in self.structure.leaves:
            return extent
        return extent._replace(mask=jnp.zeros(extent.positions, bool))

    @property
    def averaged(self) -> frozenset[str]:
        """The local sites that likelihoods without a closed form depend on."""
        return frozenset().union(*self.structure.likelihoods.values())

    def parts(self, name: str) -> list[Any]:
        """The factors that make up the prior of a local site."""
        return [f for f in self.structure.factors if f.site == name]

    def own(self, name: str, role: str = "value") -> Any:
        """The factor that is the prior of a local site, or one part of it."""
        return next(f for f in self.parts(name) if f.role == role)

    def observed(self, *forms: str, **where: Any) -> list[Any]:
        """Observed factors with data, of some forms and with attributes as given."""
        return [
            f
            for f in self.structure.factors
            if (not forms or f.form in forms)
            and f.site not in self.structure.locals
            and self.bound.active(f.site, self.structure)
            and all(getattr(f, key) == value for key, value in where.items())
        ]

    def scored(self, name: str) -> list[Any]:
        """Observed factors that a discrete site selects, without a latent parent."""
        forms = "regression", "statistics", "density"
        found = self.observed(*forms, parent=None, coupled=False)
        return [f for f in found if f.source.selector == name]

    # parameters of factors

    def regression(self, factor: Factor) -> ExpectedRegression:
        """Moments of the weight and the covariance at the positions of a factor."""
        bound, source = self._bound(factor), factor.source
        states, entries = len(factor.selectors), bound.entries
        if entries is not None:
            entries = jnp.expand_dims(entries, tuple(range(-1 - states, -1)))
        join: Any = self.structure.joins.get(str(source.prior))
        if join is not None:
            moments = join.moments(self.moments, bound.noise, bound.members, entries)
        elif bound.noise is not None:
            moments = nothing_learnt(bound.noise)
        else:
            moments = self.moments[str(source.prior)]
            if bound.members is not None:
                moments = jax.tree.map(lambda leaf: leaf[bound.members], moments)
            moments = self.structure.holder(factor).regression(moments, entries)
        moments = bound.placed(moments, entries)
        if source.selector is not None:
            moments = messages.in_states(moments, self.local(source.selector).size)
        if source.selector in self.probs:
            probs = self.spread_for(factor, self.probs[str(source.selector)])
            moments = messages.average(moments, probs)
        return moments

    def regressor(self, factor: Factor) -> Array:
        """The known part of a factor's regressor, ``(*positions, M)``."""
        return self._bound(factor).regressor

    def by_state(self, factor: Factor) -> bool:
        """Whether a factor is given for each state of its selector."""
        selector = factor.source.selector
        return selector is not None and selector not in self.probs

    def spread(self, name: str, probs: Array, extent: Extent, offset: int = 0) -> Array:
        """Values ``(*positions, K)`` of a discrete site, where a factor is."""
        found = read_at(probs, self.extent(name), extent, 1, offset)
        return jnp.broadcast_to(found, (*extent.positions, probs.shape[-1]))

    def spread_for(self, factor: Factor, probs: Array) -> Array:
        """The same, for the selector of a factor."""
        source = factor.source
        return self.spread(
            str(source.selector), probs, self.extent(factor), source.offset
        )

    def to_selector(self, factor: Factor, table: Array) -> Array:
        """A factor's scores by state, summed to the positions of its selector."""
        extent, local = self.extent(factor), self.extent(str(factor.source.selector))
        return pull_to(table, local, extent, 1, factor.source.offset)

    # messages

    def gaussian_prior(self, name: str) -> messages.GaussianMessage:
        """Message from the prior of a Gaussian site."""
        factor: GaussianFactor = self.own(name)
        c = self.regressor(factor)
        if self.by_state(factor):
            c = c[..., None, :]
        return messages.to_child(self.regression(factor), c)

    def parent_message(self, factor: GaussianFactor, parent: str) -> GaussianPotential:
        """Message of an observed factor to its parent, at the parent's positions."""
        extent, local = self.extent(factor), self.extent(parent)
        v, c, parent_map = self._regression_data(factor)
        states = int(self.by_state(factor))
        if states:
            v, c = v[..., None, :], c[..., None, :]
        message = messages.to_parent(self.regression(factor), v, c, parent_map)

        def send(value: Array, event_dim: int) -> Array:
            return pull_to(value, local, extent, states + event_dim)

        info = send(message.info_vector, 1)
        return GaussianPotential(info, send(message.precision, 2))

    def given_parent(
        self, factor: GaussianFactor, parent: str, mean: Array, covariance: Array
    ) -> Array:
        """An observed factor averaged over its parent, at the positions of its site.

        :param mean: of the parent, ``(*positions, D)``; with ``(*positions, K, D)``
            the result has states too, as it has if the factor is given by state.
        :param covariance: of the parent, likewise.
        """
        extent, local = self.extent(factor), self.extent(parent)
        v, c, parent_map = self._regression_data(factor)
        states = mean.ndim - len(local.positions) - 1
        if self.by_state(factor) and not states:
            mean, covariance = mean[..., None, :], covariance[..., None, :, :]
            states = 1
        if states:
            v, c = v[..., None, :], c[..., None, :]
        regression = self.regression(factor)
        if states and not self.by_state(factor):
            regression = messages.with_states(regression)
        return messages.expected_log_density(
            regression,
            v,
            c,
            parent_map,
            read_at(mean, local, extent, states + 1),
            read_at(covariance, local, extent, states + 2),
        )

    def table(self, factor: Any) -> Array:
        """Log density of a site by state, ``(*positions, *states)`` or less.

        That of a latent site is of its own states too, which come last.
        """
        if factor.form == "density":
            whole = self.bound.tables[factor.site].log_probs
            return self._weighted(factor) if factor.weights else whole
        if factor.form == "statistics":
            bound = self.bound.statistics[factor.site, factor.role]
            return bound.log_prob(self._held(factor))
        if factor.form == "rows":
            return self.rows(factor)
        v, c, _ = self._regression_data(factor)
        if self.by_state(factor):
            v, c = v[..., None, :], c[..., None, :]
        return log_density(self.regression(factor), v, c)

    def rows(self, factor: Factor) -> Array:
        """Expected logs of the rows of a latent site, which blocks hold."""
        if factor.form == "weights":
            return self._weighted(factor)
        moments = self._held(factor)
        picked = self.bound.picked.get((factor.site, factor.role))
        return moments if picked is None else picked.take(moments)

    def _held(self, factor: Factor) -> Any:
        """Moments of the block of a table; of all where it is made of several."""
        name = str(factor.source.prior)
        return self.moments if name in self.structure.joins else self.moments.get(name)

    def _weighted(self, factor: Any) -> Array:
        """A table that is averaged over the weights of Gaussian blocks."""
        key = factor.site, factor.role
        found = self.weighted_rows.get(key)
        return self.bound.weights[key].average(self.moments) if found is None else found

    def _bound(self, factor: Factor) -> BoundRegression:
        return self.bound.regressions[factor.site, factor.role]

    def _regression_data(self, factor: Factor) -> tuple[Array, Array, Any]:
        bound = self._bound(factor)
        v, c = clean(self.extent(factor), bound.value), bound.regressor
        return v, c, bound.parent_map

    # factors of globals and data alone

    def data_log_probs(self) -> dict[str, Array]:
        """Expected log probabilities of the sites with no latent local parent."""
        found: dict[str, Array] = {}
        forms = "regression", "statistics"
        for factor in self.observed(*forms, parent=None, coupled=False):
            if not factor.selectors:
                value = per_entry(self.table(factor), self.extent(factor))
                found[factor.site] = found.get(factor.site, 0.0) + value
        for name, bound in (self.bound.predictors | self.bound.bilinear).items():
            found[name] = bound.expected(self.moments)
        return found
