# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Priors of global Gaussian sites that other global blocks have a part in.

The mean of a group is drawn from a population, whose own mean and covariance are learnt
too. Such a prior is a Gaussian factor of which response and parents are global,

    N(v; K + sum_p A_p x_p + F u, Sigma)

with x_p the entries of Gaussian blocks, Sigma known or of one block, and F, if there is
any, of the same block. K, A_p and u are read from the program at zero and at unit
values. Under independent posteriors the factor is a Gaussian at the expected parameters
and a constant: what the spread of the parents and that of Sigma add.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
import math
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import GaussianNatural, gaussian_kl
from numpyro_svae.program.priors.gaussian_prior import ExpectedWeight, GaussianPrior
from numpyro_svae.program.priors.spreads import (
    Spread,
    SpreadPrior,
    members_of,
    read_spread,
)
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.normals import NormalRows, normal_rows
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.probing import Prober

__all__ = ["BoundPopulation", "Population", "bind_populations"]

Values = dict[str, Any]


class Parent(NamedTuple):
    """The part that one Gaussian block has in a location.

    :param members: which member of its batch each row has, ``(..., R)``; None if a row
        has all of them, side by side, or there is no batch.
    :param map: A, ``(..., R, L, N)``, for the N entries of its weights.
    """

    members: Array | None
    map: Array

    def location(self, value: Any) -> Any:
        """What the block adds to the location, from its entries ``(*batch, N)``."""
        value = value.reshape(-1) if self.members is None else value[self.members]
        return (self.map @ value[..., None])[..., 0]

    def excess(self, moments: ExpectedWeight, precision: Array) -> Array:
        """``tr(P A Cov A')`` of each row, ``(..., R)``, at an expected precision P."""
        spread = moments.spread
        if spread.ndim != moments.mean.ndim + 1:  # all entries of a weight together
            size = math.prod(spread.shape[-2:])
            spread = spread.reshape(*spread.shape[:-4], 1, size, size)
        size = spread.shape[-1]
        if self.members is None:
            spread = spread.reshape(-1, size, size)
        else:
            spread = spread[self.members]
        diagonal = precision.shape[-1] == 1
        left = precision * self.map if diagonal else precision @ self.map
        apart = self.map.reshape(*self.map.shape[:-1], -1, size)
        right = jnp.einsum("...lij,...ijk->...lik", apart, spread)
        return jnp.sum(left * right.reshape(self.map.shape), (-2, -1))


class BoundPopulation(NamedTuple):
    """What a program gives of such a prior.

    :param offset: K, ``(..., R, L)``.
    :param parents: the parts of Gaussian blocks, in the order of the population.
    :param spread: the covariance.
    """

    offset: Array
    parents: tuple[Parent, ...]
    spread: Spread


class ExpectedPopulation(NamedTuple):
    """The prior at the expectations of other blocks, as natural parameters have it.

    :param mean: of the Gaussian.
    :param precision: of it.
    :param gap: what the divergence from it lacks of the expected divergence, of the
        batch shape of the block.
    """

    mean: Array
    precision: Array
    gap: Array


@dataclass(frozen=True)
class Population:
    """The prior of one Gaussian block, given others.

    :param block: the block.
    :param parents: the Gaussian blocks that its location depends on.
    :param noises: the block of its covariance, which may be one with a location, or
        blocks of precisions that are multiplied; none if it is known.
    :param summed: whether rows may depend on several members of a batch of parents.
    """

    block: GaussianPrior
    parents: tuple[GaussianPrior, ...]
    noises: tuple[SpreadPrior, ...]
    summed: bool = False

    is_free = False
    of_naturals = False

    @property
    def above(self) -> tuple[Any, ...]:
        """The blocks that the prior depends on."""
        return (*self.parents, *self.noises)

    @property
    def picks(self) -> bool:
        """Whether each row has one member of a batch."""
        return not self.summed and any(p.components for p in self.parents)

    def shown(self, sites: dict[str, Site]) -> NormalRows:
        """The parameters of the prior in a run."""
        return normal_rows(sites[self.block.name].fn, self.block.event_shape)

    def bind(self, prober: Prober) -> BoundPopulation:
        """Read what the program gives of it."""
        base = prober.plain_values()
        for parent in self.parents:
            shape = (*parent.batch_shape, parent.dim, parent.columns)
            base |= parent.values(jnp.zeros(shape))
        for noise in self.noises:
            base |= noise.unit_noise()

        def rows(values: Values) -> NormalRows:
            return self.shown(prober.program.sites({**base, **values}))

        origin = rows({}).loc
        parents = [_read_parent(rows, p, origin, self.summed) for p in self.parents]
        spread = read_spread(rows, self.noises)
        return BoundPopulation(origin, tuple(parents), spread)

    def agrees(self, bound: BoundPopulation, values: Values, found: NormalRows) -> bool:
        """Whether a run has the location and the covariance that it says.

        :param bound: what the program gives.
        :param values: of all latent sites.
        :param found: what is shown in the run.
        """
        more, covariance = bound.spread.at(self.noises, values)
        loc = np.asarray(bound.offset) + more
        for own, parent in zip(bound.parents, self.parents):
            weight = parent.weight(values[parent.name])
            flat = jnp.asarray(weight.reshape(*parent.batch_shape, -1))
            loc = loc + np.asarray(own.location(flat))
        square = partial(_square, loc.shape[-1])
        shown = square(found.covariance)
        # what is no covariance is told to be none later
        alike = not np.all(np.isfinite(shown)) or same(shown, square(covariance))
        return alike and same(found.loc, loc)

    def expected(
        self, bound: BoundPopulation, moments: dict[str, Any]
    ) -> ExpectedPopulation:
        """The prior at the expectations of other blocks.

        :param bound: what the program gives.
        :param moments: of all blocks.
        """
        own = [moments[noise.name] for noise in self.noises]
        precision, gap, more = bound.spread.expected(self.noises, own)
        loc, total = bound.offset + more, jnp.asarray(gap)
        for part, parent in zip(bound.parents, self.parents):
            found = moments[parent.name]
            flat = found.mean.reshape(*parent.batch_shape, -1)
            loc = loc + part.location(flat)
            total = total + part.excess(found, precision)
        rows = (*self.block.batch_shape, loc.shape[-2])
        total = 0.5 * jnp.sum(jnp.broadcast_to(total, rows), -1)
        return ExpectedPopulation(*self.block.centred(loc, precision), total)

    def prior(self, bound: BoundPopulation, moments: dict[str, Any]) -> GaussianNatural:
        """Natural parameters at the expectations of other blocks."""
        mean, precision, _ = self.expected(bound, moments)
        return GaussianNatural.from_mean(mean, precision)

    def divergence(
        self, natural: GaussianNatural, bound: BoundPopulation, moments: dict[str, Any]
    ) -> Array:
        """The expected divergence of a posterior, of the batch shape of the block."""
        mean, precision, gap = self.expected(bound, moments)
        kl, rank = gaussian_kl(natural, mean, precision), len(self.block.batch_shape)
        return jnp.sum(kl, tuple(range(rank, kl.ndim))) + gap


def _read_parent(
    rows: Callable[[Values], NormalRows],
    parent: GaussianPrior,
    origin: Array,
    summed: bool,
) -> Parent:
    """The part of a block in a location that is ``origin`` where all parts are zero."""
    shape = parent.dim, parent.columns
    batch = parent.batch_shape if summed else ()
    units = jnp.eye(math.prod(batch + shape)).reshape(-1, *batch, *shape)

    def show(marks: Array) -> Array:
        def one(unit: Array) -> Array:
            weight = marks * jnp.broadcast_to(unit, (*parent.batch_shape, *shape))
            return rows(parent.values(weight)).loc - origin

        return jnp.moveaxis(jax.vmap(one)(units), 0, -1)

    once = show(jnp.ones(()))
    if summed or parent.components is None:
        return Parent(None, once)
    more = show(1.0 + jnp.arange(parent.components)[:, None, None])
    flat, marked = (x.reshape(*x.shape[:-2], -1) for x in (once, more))
    best = jnp.argmax(jnp.abs(flat), -1)[..., None]
    seen, mark = (jnp.take_along_axis(x, best, -1)[..., 0] for x in (flat, marked))
    # where nothing is seen of a member, any will do
    ratio = jnp.where(seen != 0, mark / jnp.where(seen != 0, seen, 1.0), 1.0)
    members = jnp.clip(members_of(ratio), 0, parent.components - 1)
    return Parent(members, once)


def _square(size: int, covariance: Any) -> Any:
    """Covariances ``(..., L, L)``, from those of rows or of entries."""
    covariance = np.asarray(covariance)
    return covariance * np.eye(size) if covariance.shape[-1] == 1 else covariance


def bind_populations(populations: dict[str, Any], prober: Prober) -> dict[str, Any]:
    """What a program gives of the priors that depend on other blocks, by block."""

    @jax.jit
    def bind() -> dict[str, Any]:
        return {name: p.bind(prober) for name, p in populations.items()}

    return bind() if populations else {}
