# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where blocks start of which only other global blocks say something."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.factors.global_priors import divergence, expected_prior
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.structure.factors import Structure

__all__ = ["from_below", "priors_alone"]

Naturals = dict[str, NaturalParameters]


def priors_alone(structure: Structure, bound: Bound) -> Naturals:
    """The priors of all blocks, each at the prior expectations of those above it."""
    found: Naturals = {}
    moments: Naturals = {}
    for name, block in structure.priors.items():
        found[name] = expected_prior(structure, bound, name, moments)
        moments[name] = block.moments(found[name])
    return found


def from_below(
    structure: Structure, bound: Bound, priors: Naturals, starts: Naturals
) -> Naturals:
    """Starts of all blocks: the others have their prior, and the messages from below.

    The last level comes first, and locations before the spread around them.

    :param priors: of all blocks.
    :param starts: of the blocks that data say something of.
    """
    names = [n for n in reversed(structure.priors) if n not in starts]
    names.sort(key=lambda n: structure.priors[n].part != "weight")
    found = priors | starts
    for name in names:
        below = [
            n
            for n, population in structure.populations.items()
            if structure.priors[name] in population.above
        ]
        if below:
            found[name] = _updated(structure, bound, found, name, below)
    return {name: found[name] for name in structure.priors}


def _updated(
    structure: Structure, bound: Bound, found: Naturals, name: str, below: list[str]
) -> NaturalParameters:
    """The best natural parameters of a block, given those of the blocks below it."""

    def gain(natural: NaturalParameters) -> Array:
        given = found | {name: natural}
        moments = {n: p.moments(given[n]) for n, p in structure.priors.items()}
        losses = (
            bound.sites[n].scale * divergence(structure, bound, n, given, moments)
            for n in below
        )
        return -sum((jnp.sum(loss) for loss in losses), jnp.zeros(()))

    own: Any = found[name]
    rise = jax.grad(gain)(own)
    step = jnp.minimum(1.0, 0.5 * own.largest_step(rise))
    return own + rise.scale(step)
