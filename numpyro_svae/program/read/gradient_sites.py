# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which likelihoods send a latent vector the gradient of their expectation.

They are those of the vectors and paths that no potential is given for, and that are
not seen through a conjugate factor there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.read.wiring import listed
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Program, Site
from numpyro_svae.program.structure.factors import Local, Structure
from numpyro_svae.program.structure.groups import Group, coupled_groups
from numpyro_svae.program.structure.likelihoods import Likelihoods

__all__ = ["check_groups", "check_positions", "senders_of"]

_NUM_PROBES = 3
_INSTEAD = "return a GaussianPotential for it from the recognition function"


def senders_of(
    likelihoods: Mapping[str, frozenset[str]],
    locals: Mapping[str, Local],
    recognised: Collection[str],
) -> dict[str, tuple[str, ...]]:
    """The latent vectors that likelihoods send gradients to, with these likelihoods.

    :param likelihoods: the likelihoods, with the latent sites that each depends on.
    :param locals: the local sites.
    :param recognised: names of the sites that the recognition function speaks to.
    :raises ValueError: naming the vector, if one of its likelihoods depends on another
        latent site too.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, parents in likelihoods.items():
        for parent in sorted(parents.difference(recognised)):
            if locals[parent].discrete:
                continue
            if len(parents) > 1:
                raise ValueError(
                    f"Site '{parent}': latent, without a potential, and seen through "
                    f"site '{name}', which is not conjugate and depends on latent "
                    f"{listed(parents - {parent})} too. Accepted without a potential: "
                    "likelihoods that depend on one Gaussian vector or path and on no "
                    "other latent site, so make the vectors parts of one site (what is "
                    f"linear and Gaussian may depend on several), or {_INSTEAD}."
                )
            found[parent] = (*found.get(parent, ()), name)
    return found


def check_groups(structure: Structure, mean_field: bool) -> None:
    """A vector must have one Gaussian at each position for gradients to be sent to it.

    :raises ValueError: naming the vector.
    """
    for group in coupled_groups(structure):
        for name in structure.gradients:
            if name in group.states and _is_mixed(group, mean_field):
                graph, senders = group.kind == "graph", structure.gradients[name]
                other = "" if graph else "AutoSVAE(..., mean_field=True), or "
                raise ValueError(
                    f"Site '{name}': latent, without a potential, and seen through "
                    f"{listed(senders)}, while {listed(group.discrete)} makes a "
                    "mixture of its posterior. Accepted without a potential: "
                    f"{other}a vector or path that no discrete site is inferred "
                    f"jointly with; or {_INSTEAD}."
                )


def _is_mixed(group: Group, mean_field: bool) -> bool:
    if not group.discrete:
        return False
    return group.kind == "graph" or (group.kind == "mixture" and not mean_field)


def check_positions(
    program: Program, structure: Structure, sites: dict[str, Site]
) -> None:
    """Likelihoods must see each position of a vector by itself.

    Where they do, the gradient at some positions does not change if the others do.

    :raises ValueError: naming the vector and its likelihoods.
    """
    known = Likelihoods(*Likelihoods.split(program), structure)
    for name, senders in structure.gradients.items():
        if not _are_apart(known, sites[name], senders):
            raise ValueError(
                f"Site '{name}': latent, without a potential, and seen through "
                f"{listed(senders)}, not conjugate, which sees several positions or "
                "steps of it together. Accepted without a potential: a likelihood that "
                f"is a product over the positions of '{name}', each at its value there "
                f"(no sum, convolution or normalisation over them); or {_INSTEAD}."
            )


def _are_apart(known: Likelihoods, site: Site, senders: tuple[str, ...]) -> bool:
    shape, dtype = site.value.shape, site.value.dtype
    positions = extent_of(site).positions

    @jax.jit
    @jax.grad
    def gradient(value: Array) -> Array:
        found = known.at(senders, site.name, value)
        return sum((jnp.sum(v) for v in found.values()), jnp.zeros(()))

    for seed in range(_NUM_PROBES):
        rng = np.random.default_rng(seed)
        draw = partial(rng.standard_normal, shape)
        first, other = np.asarray(draw(), dtype), np.asarray(draw(), dtype)
        moved = rng.random(positions)[..., None] < 0.5
        before = np.asarray(gradient(jnp.asarray(first)))
        after = np.asarray(gradient(jnp.asarray(np.where(moved, other, first))))
        known_both = np.isfinite(before) & np.isfinite(after) & ~moved
        size = np.max(np.abs(before), initial=0.0, where=np.isfinite(before))
        change = np.where(known_both, after, 0.0) - np.where(known_both, before, 0.0)
        if np.max(np.abs(change), initial=0.0) > 1e-3 * size:
            return False
    return True
