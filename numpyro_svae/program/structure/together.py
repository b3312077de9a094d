# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds sites whose plate has the entries of one vector, not members.

A plate of K components has members that are used one at a time, as in ``mu[z]``.
Weights in a plate of features, as in ``X @ w``, are used together, and so are the
entries of a mean, and of several batches that are picked apart, as in ``a[row] +
b[column]``. They are shown to the reader with these plates as event dimensions, as if
they had been written with ``to_event``: their posterior is one of all of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.sites import (
    Site,
    is_gaussian,
    is_gaussian_vector,
    is_path,
)
from numpyro_svae.program.structure.numbers import drawn_values
from numpyro_svae.program.structure.probing import Prober, parameters

__all__ = ["Members", "find_together", "users_of"]


def find_together(prober: Prober) -> dict[str, int]:
    """How many batch dimensions of Gaussian sites and scales are those of one vector or
    matrix.

    :param prober: runs the program, with concrete arguments.
    :return: by site, those alone that have any.
    """
    sites = [s for s in prober.sites.values() if s.batch_shape and _is_block(s)]
    single = {s.name: count for s in sites if (count := _without_plates(s))}
    if single:
        return single
    sites = [s for s in sites if is_gaussian(s.fn) or _is_of_numbers(prober, s)]
    every = [Members(prober, site, users_of(prober, site)) for site in sites]
    every = [members for members in every if members.users and members.axes]
    found = {m.site.name: m.together() for m in every}
    if not any(found.values()):
        weights = [m for m in every if is_gaussian(m.site.fn)]
        found = {m.site.name: m.rank for m in weights if m.are_apart(every)}
        if any(m.site.name in found and m.are_multiplied(weights) for m in weights):
            return {}
    return {name: count for name, count in found.items() if count}


def _is_block(site: Site) -> bool:
    """Whether a site may be a mean, weight, or scale that counts as a whole."""
    gaussian = is_gaussian(site.fn) and not is_path(site.fn)
    free = not site.observed and bool(np.all(np.equal(site.scale, 1.0)))
    return free and (gaussian or isinstance(site.fn, PrecisionPrior.distributions))


def _without_plates(site: Site) -> int:
    """How many trailing batch dimensions of numbers are one, and of no plate, beside
    those of plates: a number for each of the rows of data is a vector of one entry."""
    plates = [-frame.dim for frame in site.frames]
    if site.outer.event_shape or not plates:
        return 0
    return min(plates) - 1


def _is_of_numbers(prober: Prober, site: Site) -> bool:
    """Whether all that depends on a scale are independent numbers."""
    found = (prober.sites[n] for n, used in prober.needs.items() if site.name in used)
    return all(spelling_of(s.fn) == "numbers" for s in found)


def users_of(prober: Prober, site: Site) -> list[Site]:
    """The Gaussian vectors in the plates of data that depend on a site.

    Priors of global sites may depend on members in any way.
    """
    seen = {f.name for s in prober.sites.values() if s.observed for f in s.frames}
    found = [prober.sites[n] for n, used in prober.needs.items() if site.name in used]
    found = [s for s in found if is_gaussian_vector(s)]
    return [s for s in found if s.observed or seen & {f.name for f in s.frames}]


class Members:
    """The members of a batch, and where each is used.

    :param prober: runs the program.
    :param site: the site with the batch.
    :param users: the Gaussian vectors that depend on it.
    """

    def __init__(self, prober: Prober, site: Site, users: list[Site]) -> None:
        self.prober, self.site, self.users = prober, site, users
        self.rank = len(site.batch_shape)
        plates = {frame.name for user in users for frame in user.frames}
        shared = {f.dim + self.rank for f in site.frames if f.name in plates}
        self.first = max(shared, default=-1) + 1  # of the axes that are its own
        self.axes = range(self.first, self.rank)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Values of all latent sites to begin with."""
        return drawn_values(self.prober.sites)

    @cached_property
    def origin(self) -> list[list[np.ndarray]]:
        """Parameters of the users there."""
        return self._shown(self.values)

    def together(self) -> int:
        """How many trailing axes of the batch are those of entries."""
        found = (self.rank - axis for axis in self.axes if self.meet(axis))
        return next(found, 0)

    def meet(self, axis: int) -> bool:
        """Whether those of several indices of an axis are used at one position."""
        return any(
            (a & b).any()
            for bit in range(self._bits(axis))
            for a, b in zip(self.moved(axis, bit, 0), self.moved(axis, bit, 1))
        )

    def are_apart(self, others: list[Members]) -> bool:
        """Whether a position uses one member of this batch and another one of another,
        as in ``a[subject] + b[item]``."""
        return self.rank == 1 and not self.first and any(map(self._is_apart, others))

    def _is_apart(self, other: Members) -> bool:
        common = {s.name for s in self.users} & {s.name for s in other.users}
        if other is self or not common or other.rank > 1 or other.first:
            return False
        if other.site.batch_shape != self.site.batch_shape:
            return True
        return any(
            (a & b).any()
            for bit in range(self._bits(0))
            for name in common
            for a, b in zip(self._at(name, bit, 0), other._at(name, bit, 1))
        )

    def are_multiplied(self, others: list[Members]) -> bool:
        """Whether a location has products of members of several batches, one each, as
        in ``jnp.sum(u[row] * v[column], -1)``."""
        return any(self._is_product(user, others) for user in self.users)

    def _is_product(self, user: Site, others: list[Members]) -> bool:
        """Whether a location is no sum of functions of one of some sites each."""
        names = [o.site.name for o in others if user in o.users]
        zeros = {name: np.zeros_like(self.values[name]) for name in names}

        def loc(*own: str) -> np.ndarray:
            values = {**self.values, **zeros, **{n: self.values[n] for n in own}}
            return self._shown(values)[self.users.index(user)][0]

        alone = sum(loc(name) for name in names)
        return not same(loc(*names) + (len(names) - 1) * loc(), alone)

    def _at(self, user: str, bit: int, value: int) -> list[np.ndarray]:
        names = [s.name for s in self.users]
        return [self.moved(0, bit, value)[names.index(user)]]

    def _bits(self, axis: int) -> int:
        return max(self.site.value.shape[axis] - 1, 0).bit_length()

    def moved(self, axis: int, bit: int, value: int) -> list[np.ndarray]:
        """At which positions users differ if those members do whose index has a bit.

        :param value: of the bit.
        """
        index = np.arange(self.site.value.shape[axis])
        where = (index >> bit & 1 == value).reshape(
            (-1,) + (1,) * (self.site.value.ndim - axis - 1)
        )
        before = self.values[self.site.name]
        after = np.where(where, before + np.ones((), before.dtype), before)
        shown = self._shown({**self.values, self.site.name: after})
        return [
            np.any([(a != b).any(-1) for a, b in zip(own, origin)], 0)
            for own, origin in zip(shown, self.origin)
        ]

    def _shown(self, values: dict[str, Any]) -> list[list[np.ndarray]]:
        """Parameters of the users, ``(*positions, entries)``."""
        sites = self.prober.program.sites(values)
        return [_by_position(sites[user.name]) for user in self.users]


def _by_position(site: Site) -> list[np.ndarray]:
    """The location and the covariance of a vector, one row for each position."""
    found = parameters(site)
    loc, covariance = np.asarray(found["loc"]), np.asarray(found["covariance"])
    dim = loc.shape[-1]
    loc = np.broadcast_to(loc, (*site.positions, dim))
    square = jnp.broadcast_to(covariance, (*site.positions, dim, dim))
    return [loc, np.reshape(square, (*site.positions, -1))]
