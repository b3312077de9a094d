# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds observations of numbers whose last event dimension has no vectors.

``Normal(loc, scale).to_event(1)`` with D entries is a vector of dimension D, or one
number at each of D steps. It is read as a vector unless the program speaks of numbers:
entries go with the steps of a chain (or of other latent sites with such an axis), or
what is learnt is a mean or the weights of one number. These sites are shown to the
reader with a last axis of one, as vectors of dimension one at each step.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from numpyro_svae.distributions import (
    MatrixNormalInverseWishart,
    NormalInverseWishart,
)
from numpyro_svae.program.priors.precision_prior import PrecisionPrior
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.sites import Site, is_gaussian, is_path
from numpyro_svae.program.structure.probing import Prober

__all__ = ["drawn_values", "find_numbers", "is_scale"]

_JOINT = NormalInverseWishart | MatrixNormalInverseWishart


def find_numbers(prober: Prober) -> frozenset[str]:
    """The observed sites that are numbers at each step, not vectors over steps.

    :param prober: runs the program, with concrete arguments.
    """
    found = [s for s in prober.sites.values() if s.observed and _has_entries(s)]
    return frozenset(
        s.name for s in found if _Entries(prober, s).apart(prober.needs[s.name])
    )


def drawn_values(sites: dict[str, Site]) -> dict[str, Any]:
    """Random values of Gaussian sites and chains, and easy ones of all others.

    :param sites: the sites of one run.
    """
    rng, values = np.random.default_rng(0), dict[str, Any]()
    for name, site in sites.items():
        if site.observed:
            continue
        value = values[name] = np.asarray(site.value)
        if is_gaussian(site.fn):
            values[name] = rng.standard_normal(value.shape).astype(value.dtype)
    return values


def is_scale(site: Site) -> bool:
    """Whether the values of a site are precisions or variances, or rates."""
    return isinstance(site.fn, PrecisionPrior.distributions)


def _is_joint(site: Site) -> bool:
    return isinstance(site.fn, _JOINT)


def _is_weight(site: Site) -> bool:
    """Whether a site may be the mean or the weight of a factor."""
    return _is_joint(site) or (is_gaussian(site.fn) and not is_path(site.fn))


def _has_entries(site: Site) -> bool:
    """Whether a site is a vector of independent entries, as far as its shape tells."""
    event = site.outer.event_shape
    normal = spelling_of(site.fn) == "numbers" and len(event) == site.extra + 1
    return normal and event[-1] > 1


class _Entries:
    """The entries of an observed vector, and what moves them.

    :param prober: runs the program.
    :param site: the vector.
    """

    def __init__(self, prober: Prober, site: Site) -> None:
        self.prober, self.site, self.size = prober, site, site.outer.event_shape[-1]
        self.plates = {frame.name for frame in site.frames}
        self.values = drawn_values(prober.sites)

    def apart(self, used: Collection[str]) -> bool:
        """Whether the entries are numbers of which each has a place of its own.

        :param used: the latent sites that the vector depends on.
        """
        sites = [self.prober.sites[name] for name in used]
        if any(self._follows(site) for site in sites if self._is_local(site)):
            return True
        sizes = [s.outer.event_shape for s in sites if is_scale(s)]
        weights = [s for s in sites if _is_weight(s) and self._is_open(s)]
        learnt = weights + [s for s in sites if is_scale(s)]
        if any(len(s.batch_shape) > 1 for s in learnt):
            return False  # one plate of components, and one of entries
        if (self.size,) in sizes or not all(map(_is_of_number, weights)):
            return False
        return not all(map(self._is_mean, weights))

    def _is_open(self, site: Site) -> bool:
        return not self.plates & {frame.name for frame in site.frames}

    def _is_local(self, site: Site) -> bool:
        """Whether a site of data has one more axis of positions than the vector."""
        state = is_path(site.fn) or not self._is_open(site)
        return state and site.extra > self.site.extra

    def _follows(self, site: Site) -> bool:
        """Whether even steps of a site move other entries than odd ones."""
        axis = len(site.positions) - 1
        shape = (-1,) + (1,) * (site.value.ndim - axis - 1)
        even = np.reshape(np.arange(site.positions[-1]) % 2 == 0, shape)
        first, second = self._moved(site, even), self._moved(site, ~even)
        return bool(first.any() and second.any() and not (first & second).any())

    def _is_mean(self, site: Site) -> bool:
        """Whether the first entry of a weight moves no entry but the first."""
        event = site.outer.event_shape
        if int(np.prod(event, dtype=int)) != self.size or _is_joint(site):
            return False
        one = np.arange(self.size).reshape(event) == 0
        return not self._moved(site, one)[1:].any()

    def _moved(self, site: Site, where: np.ndarray) -> np.ndarray:
        """Which entries differ if some values of a latent site do."""
        value = self.values[site.name]
        other = np.where(where, value + np.ones((), value.dtype), value)
        before, after = (
            self._parameters({**self.values, site.name: v}) for v in (value, other)
        )
        differ = [np.asarray(a != b) for a, b in zip(before, after)]
        return np.any([d.reshape(-1, self.size).any(0) for d in differ], 0)

    def _parameters(self, values: dict[str, Any]) -> list[Any]:
        site = self.prober.program.sites(values)[self.site.name]
        shape = site.outer.batch_shape + site.outer.event_shape
        fn: Any = site.fn
        return [jnp.broadcast_to(p, shape) for p in (fn.loc, fn.scale)]


def _is_of_number(site: Site) -> bool:
    """Whether a weight may be that of a response of dimension one."""
    event = site.outer.event_shape
    if _is_joint(site):
        return event[0] == 1
    return len(event) < 2 or (len(event) == 2 and 1 in event)
