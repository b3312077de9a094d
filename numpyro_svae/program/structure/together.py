# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds global sites whose plate has the entries of one vector, not members.

A plate of K components has members that are used one at a time, as in ``mu[z]``.
Weights in a plate of features, as in ``X @ w``, are used together, and so are the
entries of a mean. They are shown to the reader with these plates as event dimensions,
as if they had been written with ``to_event``: their posterior is one of all of them.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.sites import (
    Site,
    is_gaussian,
    is_gaussian_vector,
    is_path,
)
from numpyro_svae.program.structure.numbers import drawn_values
from numpyro_svae.program.structure.probing import Prober, parameters

__all__ = ["find_together"]


def find_together(prober: Prober) -> dict[str, int]:
    """How many batch dimensions of global sites are those of one vector or matrix.

    :param prober: runs the program, with concrete arguments.
    :return: by site, those alone that have any.
    """
    sites = [s for s in prober.sites.values() if s.batch_shape and _is_block(s)]
    found = dict[str, int]()
    for site in sites:
        users = _users(prober, site)
        count = _Members(prober, site, users).together() if users else 0
        found |= {site.name: count} if count else {}
    return found


def _is_block(site: Site) -> bool:
    """Whether a site may be a global mean, weight, or scale that counts as a whole."""
    gaussian = is_gaussian(site.fn) and not is_path(site.fn)
    free = not site.observed and bool(np.all(np.equal(site.scale, 1.0)))
    return free and (gaussian or isinstance(site.fn, PrecisionPrior.distributions))


def _users(prober: Prober, site: Site) -> list[Site]:
    """The Gaussian vectors that depend on a site; none if it has a member for each
    position of one of them."""
    needs, own = prober.needs, {frame.name for frame in site.frames}
    found = [prober.sites[n] for n, used in needs.items() if site.name in used]
    if any(own & {frame.name for frame in s.frames} for s in found):
        return []
    if not is_gaussian(site.fn) and any(spelling_of(s.fn) != "numbers" for s in found):
        return []
    return [s for s in found if is_gaussian_vector(s)]


class _Members:
    """The members of a batch, and where each is used.

    :param prober: runs the program.
    :param site: the site with the batch.
    :param users: the Gaussian vectors that depend on it.
    """

    def __init__(self, prober: Prober, site: Site, users: list[Site]) -> None:
        self.prober, self.site, self.users = prober, site, users
        self.values = drawn_values(prober.sites)
        self.origin = self._shown(self.values)

    def together(self) -> int:
        """How many trailing axes of the batch are those of entries."""
        shape = self.site.batch_shape
        found = (len(shape) - axis for axis in range(len(shape)) if self._meet(axis))
        return next(found, 0)

    def _meet(self, axis: int) -> bool:
        """Whether members with several indices of an axis are used at one position."""
        index = np.arange(self.site.batch_shape[axis])
        shape = (-1,) + (1,) * (self.site.value.ndim - axis - 1)
        for bit in range(max(len(index) - 1, 0).bit_length()):
            first = (index >> bit & 1 == 0).reshape(shape)
            if any((a & b).any() for a, b in zip(*map(self._moved, (first, ~first)))):
                return True
        return False

    def _moved(self, where: np.ndarray) -> list[np.ndarray]:
        """At which positions users differ if some members do."""
        value = self.values[self.site.name]
        other = np.where(where, value + np.ones((), value.dtype), value)
        shown = self._shown({**self.values, self.site.name: other})
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
