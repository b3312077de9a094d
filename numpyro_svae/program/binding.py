# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the factors of a program need of its data, read by running it once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.families import ExpectedRegression, NaturalParameters
from numpyro_svae.program.conditionals import bind_regression
from numpyro_svae.program.entries import Picked
from numpyro_svae.program.factors import (
    DiscreteFactor,
    Factor,
    GaussianConditional,
    GaussianFactor,
    StatisticsFactor,
    Structure,
    TableConditional,
    TableFactor,
)
from numpyro_svae.program.known import PARAMETERS, known_moments, linear_map
from numpyro_svae.program.places import Place, place_of
from numpyro_svae.program.probing import Prober, parameters
from numpyro_svae.program.regressions import (
    covariance_members,
    gathered_members,
    scanned_inputs,
)
from numpyro_svae.program.sites import Program, Site
from numpyro_svae.program.statistics import BoundStatistics, bind_rows, bind_statistics
from numpyro_svae.program.tables import bind_table

__all__ = ["Bound", "BoundRegression", "BoundTable", "bind"]


class BoundRegression(NamedTuple):
    """The data of one Gaussian factor ``N(v; F (U x + c), Sigma)``.

    :param known: the moments of (F, Sigma) where no prior holds them, with batch
        ``(*positions, [K])`` or less.
    :param value: v, of shape ``(*positions, D)``; meaningless for a latent site.
    :param regressor: c, of shape ``(*positions, M)``; of a latent chain's transition,
        meaningless.
    :param members: which member of the prior's batch each position uses.
    :param parent_map: U, ``(*positions, M, P)``, in a graph.
    :param entries: which entries of v count, ``(*positions, D)``; None for all of them.
        Those that do not are zero.
    """

    known: ExpectedRegression | None
    value: Array
    regressor: Array
    members: Array | None
    parent_map: Array | None = None
    entries: Array | None = None

    def only(self, entries: Array | None, states: int) -> BoundRegression:
        """The same of some entries of the response.

        :param states: how many axes of ``known`` are states.
        """
        if entries is None:
            return self
        known, value = self.known, jnp.where(entries, self.value, 0.0)
        if known is not None:
            known = known.only(jnp.expand_dims(entries, tuple(range(-1 - states, -1))))
        return self._replace(known=known, value=value, entries=entries)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_probs", "scale"],
    meta_fields=["batch_shape", "extra"],
)
@dataclass(frozen=True)
class BoundTable:
    """Log probabilities of a site by state of its selectors.

    :param log_probs: ``(*batch, *extra, *states)`` where the selectors have ``extra``
        position dimensions of their own; masked already.
    :param scale: that of the site.
    :param batch_shape: that of the site.
    :param extra: how many event dimensions are positions.
    """

    log_probs: Array
    scale: Array | float
    batch_shape: tuple[int, ...]
    extra: int

    @property
    def place(self) -> Place:
        """Where the table's entries are."""
        positions = self.log_probs.shape[: len(self.batch_shape) + self.extra]
        return Place(self.batch_shape, positions, None, self.scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bound:
    """A program with its data.

    :param sites: the latent sites and those with conjugate factors, of one run.
    :param priors: natural parameters of the priors, by block.
    :param regressions: data of the Gaussian factors, by site and role.
    :param statistics: data of the statistics factors, by site and role.
    :param tables: of the table factors, by site.
    :param picked: where rows of latent sites are in their blocks, by site and role, if
        they are not their members.
    """

    sites: dict[str, Site]
    priors: dict[str, NaturalParameters]
    regressions: dict[tuple[str, str], BoundRegression]
    statistics: dict[tuple[str, str], BoundStatistics]
    tables: dict[str, BoundTable]
    picked: dict[tuple[str, str], Picked]

    def active(self, name: str, structure: Structure) -> bool:
        """Whether a factor's site counts: it is latent, or it has data."""
        return name in structure.locals or self.sites[name].observed


def bind(program: Program, structure: Structure, sites: dict[str, Site]) -> Bound:
    """Read what the factors need of the data.

    :param program: the program, with its parameters and plates fixed.
    :param structure: its wiring.
    :param sites: the sites of a run at the plain values (see :func:`plain_values`).
    :return: the program with its data.
    """
    prober = Prober(program, sites, structure.priors, structure.locals, structure.joins)
    priors = {name: prior.natural(sites) for name, prior in structure.priors.items()}
    sites = {n: _with_inputs(prober, s, structure) for n, s in sites.items()}
    kept = {n: s for n, s in sites.items() if n not in structure.likelihoods}
    bound = Bound(kept, priors, {}, {}, {}, {})
    for factor in structure.factors:
        if not bound.active(factor.site, structure):
            continue
        site, key = sites[factor.site], (factor.site, factor.role)
        if isinstance(factor, TableFactor):
            selector = str(factor.source.selector)
            bound.tables[factor.site] = _table(prober, site, (selector,))
        elif isinstance(factor, TableConditional) and factor.source.prior is None:
            bound.tables[factor.site] = _table(prober, site, factor.selectors)
        elif (
            isinstance(factor, DiscreteFactor | TableConditional) and not site.observed
        ):
            if not factor.source.plain:
                bound.picked[key] = bind_rows(prober, site, factor)
        elif isinstance(factor, GaussianConditional):
            regression = _conditional(prober, site, factor)
            states = len(factor.selectors)
            bound.regressions[key] = regression.only(site.entries, states)
        elif isinstance(factor, StatisticsFactor | TableConditional):
            bound.statistics[key] = bind_statistics(prober, site, factor)
        elif isinstance(factor, GaussianFactor):
            regression = _regression(prober, site, factor)
            states = int(factor.source.selector is not None)
            bound.regressions[key] = regression.only(site.entries, states)
    return bound


def _is_latent_row(factor: Factor, site: Site) -> bool:
    return isinstance(factor, TableConditional) and not site.observed


def _with_inputs(prober: Prober, site: Site, structure: Structure) -> Site:
    """A chain that a scan spells, with its inputs."""
    for factor in structure.factors:
        if factor.site != site.name or factor.role != "transition":
            continue
        prior = structure.priors.get(str(factor.source.prior))
        inputs = scanned_inputs(prober, site, prior)
        if inputs is None:
            continue
        fn: Any = site.fn
        dim, width = fn.event_shape[-1], fn.event_shape[-1] + inputs.shape[-1]
        chain = LinearGaussianChain(
            fn.initial_loc,
            fn.initial_cov,
            jnp.zeros((dim, width), inputs.dtype),  # those of the block stand in
            fn.transition_cov,
            inputs=inputs,
            num_steps=fn.num_steps,
            validate_args=False,
        )
        return replace(site, outer=chain)
    return site


def _table(prober: Prober, site: Site, selectors: tuple[str, ...]) -> BoundTable:
    table = bind_table(prober, site, selectors)
    extra = table.ndim - len(selectors) - len(site.batch_shape)
    if not site.observed:
        extra -= 1  # the states of the site itself
    return BoundTable(table, site.scale, site.batch_shape, extra)


# Gaussian factors


def _regression(prober: Prober, site: Site, factor: GaussianFactor) -> BoundRegression:
    source, place = factor.source, place_of(site, factor.role)
    holder, members = prober.holder(source.prior), None
    if source.gathered and factor.role == "value":
        members = gathered_members(prober, site, holder)
    elif source.gathered:
        covariance = parameters(site)[PARAMETERS[factor.role][1]]
        members = jnp.broadcast_to(covariance_members(covariance), place.positions)
    if factor.parent is not None and (holder is None or not holder.columns):
        known, offset = linear_map(prober, site, factor.parent)
        nothing = jnp.zeros((*site.positions, known.weight.shape[-1]), offset.dtype)
        return BoundRegression(known, site.value - offset, nothing, members)
    value, regressor = _data(prober, site, factor)
    given = known_moments(prober, site, factor)
    return BoundRegression(given, value, regressor, members)


def _conditional(
    prober: Prober, site: Site, factor: GaussianConditional
) -> BoundRegression:
    known, parent_map, regressor = bind_regression(prober, site, factor)
    members = None
    if factor.source.gathered:
        members = gathered_members(prober, site, prober.holder(factor.source.prior))
    return BoundRegression(known, site.value, regressor, members, parent_map)


def _data(prober: Prober, site: Site, factor: GaussianFactor) -> tuple[Array, Array]:
    """The response and the known part of the regressor."""
    value = site.value
    ones = jnp.ones((*place_of(site, factor.role).positions, 1), value.dtype)
    if factor.role == "initial":
        return value[..., 0, :], ones
    if factor.role == "transition":
        inputs: Array = site.fn.inputs
        inputs = jnp.broadcast_to(inputs, ones.shape[:-1] + inputs.shape[-1:])
        return value[..., 1:, :], jnp.concatenate([value[..., :-1, :], inputs], -1)
    holder = prober.holder(factor.source.prior)
    if holder is None or not holder.columns:
        return value, ones
    if holder.columns == 1:
        return value, parameters(site)["loc"][..., :1]
    return value, prober.regressor(site.name, holder, {})
