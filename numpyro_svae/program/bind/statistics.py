# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observations of exponential families: sufficient statistics and base measures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.scipy.special import xlogy

from numpyro_svae.families import GammaNatural
from numpyro_svae.program.bind.entries import Entries, Parameter, Picked, read_entries
from numpyro_svae.program.bind.row_products import BoundProducts, bind_products
from numpyro_svae.program.priors.observations import observation_of
from numpyro_svae.program.priors.row_products import RowProducts
from numpyro_svae.program.run.positions import Extent, extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Factor
from numpyro_svae.program.structure.probing import Prober

__all__ = ["BoundStatistics", "bind_rows", "bind_statistics", "parameter_of"]


class BoundStatistics(NamedTuple):
    """The data of one factor ``<t, statistics> + base``.

    States are those of the discrete sites that it depends on, each with an axis of its
    own, of size one where it does not matter.

    :param statistics: in the container of the block's moments, with leaves
        ``(*positions, *states, ...)``.
    :param base: log base measure, ``(*positions, *states)``.
    :param picked: where its moments are among those of the block; None if they are
        those of the block, or of its members by state.
    """

    statistics: Any
    base: Array
    picked: Picked | BoundProducts | None

    def log_prob(self, moments: Any) -> Array:
        """Expected log density ``(*positions, *states)``.

        :param moments: of the block; of all blocks by name, of products of several;
            None if there is none.
        """
        if self.picked is not None:
            moments = self.picked.take(moments, _nothing(moments))

        def pair(statistic: Array, moment: Array) -> Array:
            counted = jnp.where(statistic == 0, 0.0, moment)  # 0 log 0 = 0
            return jnp.sum(
                statistic * counted, tuple(range(self.base.ndim, counted.ndim))
            )

        terms = jax.tree.map(pair, self.statistics, moments)
        return jax.tree.reduce(jnp.add, terms) + self.base


def _nothing(moments: Any) -> Any:
    """Moments of what is known, but for what the statistics have of it."""
    if isinstance(moments, GammaNatural):
        return GammaNatural(jnp.zeros(()), -jnp.ones(()))
    return 0.0


def parameter_of(site: Site, role: str = "value", event_dim: int = 0) -> Parameter:
    """The parameter of a discrete site, or of an observation, that is learnt."""
    if role != "value":
        return Parameter(f"{role}_probs", role)
    kind = observation_of(site.fn)
    if kind is None:
        raise TypeError(f"Site '{site.name}': {type(site.fn).__name__} has no rows")
    return Parameter(kind.parameter, role, kind.rows, event_dim)


def _entries(prober: Prober, site: Site, factor: Factor) -> Entries:
    parameter = parameter_of(site, factor.role, factor.event_dim)
    prior: Any = prober.priors.get(str(factor.source.prior))
    return read_entries(prober, site, parameter, prior, factor.selectors)


def _products(prober: Prober, site: Site, factor: Factor) -> BoundProducts | None:
    """Rows that are products of entries of blocks; None if they are not."""
    found = prober.holder(factor.source.prior)
    if not isinstance(found, RowProducts):
        return None
    parameter = parameter_of(site, factor.role)
    return bind_products(prober, site, parameter, factor.selectors, found)


def bind_rows(prober: Prober, site: Site, factor: Factor) -> Picked | BoundProducts:
    """Where the rows of a latent site are in a block, if they are not its members."""
    products = _products(prober, site, factor)
    if products is not None:
        return products
    entries = _entries(prober, site, factor)
    return _picked(entries, factor, prober.priors[str(factor.source.prior)], True)


def bind_statistics(prober: Prober, site: Site, factor: Any) -> BoundStatistics:
    """Read the statistics of an observed site, or of a part of an observed chain."""
    if observation_of(site.fn) is not None:
        return _of_observation(prober, site, factor)
    return _of_chain(prober, site, factor)


def _of_observation(prober: Prober, site: Site, factor: Any) -> BoundStatistics:
    extent = extent_of(site, factor.role, factor.event_dim)
    kind: Any = observation_of(site.fn)
    prior: Any = prober.holder(factor.source.prior)
    features = prior.features if factor.event_dim else ()
    value = site.value if site.mask is None else _where(site.mask, site.value)
    statistics, base = kind.statistics(site.fn, value)
    inside = site.fn.support(value)
    statistics = jax.tree.map(partial(_where, inside), statistics)
    base = jnp.where(inside, base, -jnp.inf)  # as of labels that there are not
    base = jnp.broadcast_to(base, extent.positions + features)
    if site.mask is not None:  # features may be missing
        statistics, base = jax.tree.map(partial(_where, site.mask), (statistics, base))
    states, first = len(factor.selectors), len(extent.positions)
    statistics, base = jax.tree.map(
        lambda leaf: jnp.expand_dims(leaf, tuple(range(first, first + states))),
        (statistics, base),
    )
    picked: Any = _products(prober, site, factor)
    if picked is None and not factor.source.plain:
        entries = _entries(prober, site, factor)
        picked = _picked(entries, factor, prior, kind.rows)
        if isinstance(statistics, GammaNatural) and factor.source.placed:
            base = base + xlogy(statistics.concentration, entries.known)
            rate = statistics.rate * entries.known
            statistics = GammaNatural(statistics.concentration, rate)
    base = jnp.sum(base, tuple(range(first + states, base.ndim)))
    return BoundStatistics(statistics, base, picked)


def _picked(entries: Entries, factor: Factor, prior: Any, rows: bool) -> Picked:
    if factor.source.gathered:
        members = entries.members(prior, rows)
        return Picked(members, batch_dim=len(prior.batch_shape))
    if not prior.normalised:  # the statistics have what it is multiplied by
        return Picked(None, entries.index)
    return Picked.placed(entries if rows else entries.with_complements(prior))


def _of_chain(prober: Prober, site: Site, factor: Any) -> BoundStatistics:
    extent, value = extent_of(site, factor.role), site.value
    prior: Any = prober.priors.get(str(factor.source.prior))
    selectors = factor.selectors
    picked: Any = None
    size = site.fn.initial_probs.shape[-1]  # type: ignore[attr-defined]
    initial = factor.role == "initial"
    now, before = (
        (value[..., 0], None) if initial else (value[..., 1:], value[..., :-1])
    )
    products = _products(prober, site, factor)
    if products is not None:
        picked = _products_at(products, before, extent)
    elif prior is None or not factor.source.plain:
        picked = _picked_at(
            _entries(prober, site, factor), factor, prior, before, extent
        )
    elif before is not None:
        picked = Picked(before)
    statistics = jax.nn.one_hot(now, size)
    first = len(extent.positions)
    axes = tuple(range(first, first + len(selectors)))
    base = jnp.where((now >= 0) & (now < size), 0.0, -jnp.inf)
    base = jnp.broadcast_to(base, extent.positions)
    base = jnp.expand_dims(base, axes)
    return BoundStatistics(jnp.expand_dims(statistics, axes), base, picked)


def _picked_at(
    entries: Entries, factor: Factor, prior: Any, before: Array | None, extent: Extent
) -> Picked:
    """The rows of an observed chain: of its first state, or of the state before."""
    if prior is not None and factor.source.gathered:
        picked = _picked(entries, factor, prior, True)
    else:
        picked = Picked.placed(entries)
    if before is None:
        return picked

    if picked.members is not None:
        members = _at_states(picked.members, before, extent, 1)
        return replace(picked, members=members)
    index, log_known = (
        None if leaf is None else _at_states(leaf, before, extent, 2)
        for leaf in (picked.index, picked.log_known)
    )
    return replace(picked, index=index, log_known=log_known)


def _products_at(
    products: BoundProducts, before: Array | None, extent: Extent
) -> BoundProducts:
    """The same for products of entries."""
    if before is None:
        return products
    powers = {
        name: _at_states(own, before, extent, 3)
        for name, own in products.exponents.items()
    }
    return BoundProducts(powers, _at_states(products.log_known, before, extent, 2))


def _at_states(leaf: Array, before: Array, extent: Extent, event_dim: int) -> Array:
    """Entries ``(*positions, *states, K, ...)`` at one of the K for each position."""
    first = len(extent.positions)
    event, states = leaf.shape[leaf.ndim - event_dim :], leaf.shape[first:-event_dim]
    leaf = jnp.broadcast_to(leaf, (*extent.positions, *states, *event))
    ones = (1,) * (len(states) + event_dim)
    index = jnp.reshape(before, (*extent.positions, *ones))
    axis = leaf.ndim - event_dim
    return jnp.squeeze(jnp.take_along_axis(leaf, index, axis), axis)


def _where(mask: Array, value: Array) -> Array:
    mask = jnp.reshape(mask, jnp.shape(mask) + (1,) * (value.ndim - jnp.ndim(mask)))
    return jnp.where(mask, value, jnp.zeros_like(value))
