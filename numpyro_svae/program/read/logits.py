# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads discrete sites whose probabilities are functions of a latent vector."""

from __future__ import annotations

from collections.abc import Collection

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.read.wiring import Wiring, listed
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Source, TableFactor

__all__ = ["read_logits"]

_NUM_PROBES = 6
_WEIGHTS = (
    "weights that are known, numpyro.param (point estimates, by the gradient of the "
    "bound), or Gaussian sites, as numpyro.sample('w', dist.Normal(0, 1).expand([K, D])"
    ".to_event(2))"
)


def read_logits(
    wiring: Wiring, site: Site, role: str, parameter: str, used: Collection[str]
) -> TableFactor | None:
    """The factor of a latent discrete site that depends on a latent vector.

    :param role: the part of its density.
    :param parameter: the parameter of it.
    :param used: the latent sites that this depends on.
    :return: None if neither a vector nor weights of a Gaussian block are among them.
    :raises ValueError: naming the site, if it depends on other sites too, or on several
        steps of the vector at once.
    """
    vectors = wiring.ordered(used, False)
    if not vectors:
        return _of_weights(wiring, site, role, parameter, used)
    start = (
        f"Site '{site.name}': its {parameter} depend on latent {listed(used)}, which "
        "is not conjugate. "
    )
    names = {wiring.block_of[n].name for n in used if n in wiring.block_of}
    blocks = {n: p for n, p in wiring.prober.priors.items() if n in names}
    unlike = {n for n, block in blocks.items() if block.part != "weight"}
    if unlike:
        raise ValueError(
            f"{start}Accepted beside {listed(vectors)}: {_WEIGHTS}, in the place of "
            f"{listed(unlike)}."
        )
    others = {n for n in used if n not in wiring.block_of} - {vectors[0]}
    if others:
        raise ValueError(
            f"{start}Accepted: a function of one latent vector or path, of the state "
            f"before, and of {_WEIGHTS}. Make the vectors parts of one site; a "
            "discrete site that picks the weights can be a part of the state, whose "
            "states are then all pairs of the two."
        )
    if role == "initial":
        raise ValueError(
            f"{start}Accepted for the first state of a chain: known probabilities, or "
            "those of a Dirichlet site; the steps after it may depend on the vector."
        )
    if not _is_apart(wiring, site, parameter, vectors[0]):
        raise ValueError(
            f"{start}Accepted: probabilities of each step that are a function of the "
            f"vector '{vectors[0]}' at one step (as the one before in a scan), not of "
            "several steps or sequences of it."
        )
    known = site.name, Source(), role, "logits", vectors
    return TableFactor(*known, weights=(*blocks,))


def _of_weights(
    wiring: Wiring, site: Site, role: str, parameter: str, used: Collection[str]
) -> TableFactor | None:
    """The factor of a discrete site that depends on the weights of Gaussian blocks."""
    names = {wiring.block_of[n].name for n in used if n in wiring.block_of}
    blocks = {n: p for n, p in wiring.prober.priors.items() if n in names}
    if not any(block.part == "weight" for block in blocks.values()):
        return None
    others = {n for n in used if n not in wiring.block_of}
    others |= {n for n, block in blocks.items() if block.part != "weight"}
    if others:
        raise ValueError(
            f"Site '{site.name}': its {parameter} depend on latent {listed(used)}, "
            "which is not conjugate. Accepted beside the weights "
            f"{listed(set(blocks) - others)}: what is known, or numpyro.param, in the "
            f"place of {listed(others)}. A discrete site that picks the weights can be "
            "a part of the state, whose states are then all pairs of the two."
        )
    return TableFactor(site.name, Source(), role, "weights", weights=(*blocks,))


def _is_apart(wiring: Wiring, site: Site, parameter: str, parent: str) -> bool:
    """Whether the probabilities at each position see one position of a vector.

    Of two halves that its positions are split into, only one may move them.
    """
    prober = wiring.prober
    known, vector = prober.plain_values(), prober.sites[parent]
    positions = extent_of(vector).positions

    @jax.jit
    def probs(value: Array) -> Array:
        return prober.read({**known, parent: value})[site.name][parameter]

    for seed in range(_NUM_PROBES):
        rng = np.random.default_rng(seed)
        shape, dtype = vector.value.shape, vector.value.dtype
        first, other = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        half = rng.random(positions)[..., None] < 0.5
        before = probs(jnp.asarray(first))
        moved = [
            np.abs(np.asarray(probs(jnp.asarray(np.where(h, other, first))) - before))
            for h in (half, ~half)
        ]
        axes = (-2, -1) if parameter == "transition_probs" else (-1,)
        if np.any(np.minimum(*(m.max(axes) for m in moved)) > 1e-5):
            return False
    return True
