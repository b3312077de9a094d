# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The Gaussian factors that may be that of a site.

What is known in it is read once at the arguments of the program, and once at others:
what happens to be zero, or one, or the same everywhere, may not be so in a later call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.bind.affine import View, at_first
from numpyro_svae.program.bind.gathered import scanned_inputs
from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.run.origins import here_and_elsewhere
from numpyro_svae.program.run.sites import Program
from numpyro_svae.program.structure.factors import Beside, GaussianFactor, Source

__all__ = ["candidates"]


class _Facts(NamedTuple):
    """What a program gives at one value of its arguments.

    :param offset: the location where F is zero; of a part of a chain, K.
    :param known: what unit vectors of the parents add to it.
    :param placement: S for the parents; of a part of a chain, all of S.
    :param scale: s.
    """

    offset: Array
    known: Array
    placement: Array
    scale: Array


def _facts(view: View, parents: tuple[str, ...]) -> _Facts:
    offset, empty = view.location({}), jnp.zeros((0, 0))
    known = placement = empty
    if not view.vector:
        if view.columns:
            placement = view.rows({}) - offset[..., :1, :]
    else:
        known = view.along(parents, view.location)
        if view.columns:
            placement = view.along(parents, view.rows) - known[..., :1, :]
    scale = view.scale() if view.has_noise else jnp.ones(())
    return _Facts(offset, known, placement, scale)


def _here_and_elsewhere(view: View, parents: tuple[str, ...]) -> list[_Facts]:
    """Facts at the arguments of the program, and at others."""

    def read(program: Program) -> _Facts:
        return _facts(replace(view, prober=view.prober.at(program)), parents)

    both = here_and_elsewhere(view.prober.program, read)
    return jax.device_get(both)  # to compare arrays of NumPy compiles nothing


def candidates(
    view: View,
    parents: tuple[str, ...],
    selectors: tuple[str, ...],
    noise_by_state: bool,
) -> Iterator[GaussianFactor]:
    """Factors that may be the one, but for their source."""
    facts = _here_and_elsewhere(view, parents)
    location = _location(view, facts, parents)
    shared = all(_alike(fact.known) for fact in facts)
    scaled = not all(np.allclose(fact.scale, 1.0, 1e-5) for fact in facts)
    parent_map = None
    if view.vector and parents and view.columns:
        maps = [fact.placement for fact in facts]
        if all(map(_alike, maps)) and same(at_first(maps[0]), at_first(maps[-1])):
            parent_map = at_first(maps[0])
    latent = not view.site.observed
    single = len(parents) + latent <= 1 and len(selectors) <= 1
    if parents:
        given = parent_map is not None if view.columns else not selectors
        single = single and given and shared
    name = None if view.holder is None else view.holder.name
    for spelled, by_state, whole in _options(view, location, parents, selectors):
        known = spelled, by_state, noise_by_state, shared
        beside = Beside(*known, scaled or (whole and view.has_noise), whole)
        coupled = not single or bool(parents and by_state)
        yield GaussianFactor(
            view.site.name,
            Source(name),
            view.role,
            parents=parents,
            selectors=selectors,
            coupled=coupled,
            beside=beside,
            parent_map=None if whole else parent_map,
            support=view.support,
        )


def _options(
    view: View, location: str, parents: tuple[str, ...], selectors: tuple[str, ...]
) -> list[tuple[str, bool, bool]]:
    """Where K may be other than zero, and whether it differs between states, and
    whether S and s do."""
    if not selectors:
        return [(location, False, False)]
    anything = "offset" if view.vector and not parents else "map"
    found = [(location, True, False)]
    if view.columns:
        found = [(location, False, False), (location or anything, True, False)]
    if view.vector and view.holder is not None:
        found.append((location or anything, True, True))
    return found


def _location(view: View, facts: list[_Facts], parents: tuple[str, ...]) -> str:
    """What :class:`Beside` says of the location."""
    if view.vector:
        if any(np.any(fact.known != 0) for fact in facts):
            return "map"
        if any(np.any(fact.offset != 0) for fact in facts) or not view.columns:
            return "map" if parents and not view.columns else "offset"
        return ""
    none = all(not np.any(fact.offset != 0) for fact in facts)
    if none and view.columns and _is_standard(view, facts):
        return ""
    return "map"


def _is_standard(view: View, facts: list[_Facts]) -> bool:
    """Whether the parameter of a chain is the weight, or the inputs can be shown."""
    if scanned_inputs(view) is not None:
        return True
    eye = np.eye(view.columns)
    return all(
        fact.placement.shape[-2:] == eye.shape and same(fact.placement, eye)
        for fact in facts
    )


def _alike(maps: Array) -> bool:
    """Whether maps are the same at all positions."""
    return bool(np.allclose(maps, at_first(maps), rtol=1e-4, atol=1e-5))
