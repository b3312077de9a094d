# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Local sites that form general graphs: their plates, and which graphs are accepted."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph import Variable, elimination_order
from numpyro_svae.program.factors import Structure
from numpyro_svae.program.groups import Group, coupled_groups, scope
from numpyro_svae.program.sites import Site

__all__ = ["Axes", "axes_of", "check_graphs", "variable_of"]


class Axes(NamedTuple):
    """The positions of a site, as named plates.

    Positions that sites share without a plate have a name too: batch dimensions are
    counted from the right, as in a program, those that ``to_event`` added from the
    left. A dimension of size one that is no plate has none.

    :param plates: names of the plates, outermost first.
    :param sizes: of the plates.
    :param positions: shape of the positions.
    :param extra: how many trailing positions are event dimensions.
    """

    plates: tuple[str, ...]
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    extra: int

    def to_plates(self, value: Array, event_dim: int) -> Array:
        """Values by plates, from values that broadcast to the positions."""
        event = value.shape[value.ndim - event_dim :]
        value = jnp.broadcast_to(value, (*self.positions, *event))
        return jnp.reshape(value, (*self.sizes, *event))

    def share(self, total: Array) -> Array:
        """A total that is spread evenly over the batch."""
        batch = self.positions[: len(self.positions) - self.extra]
        return jnp.broadcast_to(total / math.prod(batch), batch)

    def to_positions(self, value: Array) -> Array:
        """Values at the positions, from values ``(*sizes, *event)``."""
        event = value.shape[len(self.sizes) :]
        return jnp.reshape(value, (*self.positions, *event))


def axes_of(site: Site, extra: int | None = None) -> Axes:
    """The named positions of a site.

    :param site: the site.
    :param extra: how many event dimensions are positions, if not all that could be.
    """
    extra = site.extra if extra is None else extra
    batch = site.batch_shape
    positions = batch + tuple(site.outer.event_shape[:extra])
    frames = {frame.dim: frame.name for frame in site.frames}
    names: list[str | None] = []
    for dim, size in zip(range(-len(batch), 0), batch):
        names.append(frames.get(dim, None if size == 1 else f"dimension {dim}"))
    names += [f"event dimension {dim}" for dim in range(extra)]
    named = [(n, size) for n, size in zip(names, positions) if n is not None]
    plates, sizes = zip(*named) if named else ((), ())
    return Axes(tuple(plates), tuple(sizes), positions, extra)


def variable_of(structure: Structure, site: Site) -> Variable:
    """The variable of a graph that a local site is."""
    local = structure.locals[site.name]
    return Variable(site.name, local.size, local.discrete, axes_of(site).plates)


def check_graphs(structure: Structure, sites: dict[str, Site]) -> None:
    """Graphs must be tractable, and of sites that the graph block can take.

    :raises ValueError: naming the sites, what was found and what is accepted.
    """
    for group in coupled_groups(structure):
        if group.kind == "graph":
            _check_graph(structure, sites, group)


def _check_graph(structure: Structure, sites: dict[str, Site], group: Group) -> None:
    names = [*group.discrete, *group.states]
    listed = ", ".join(f"'{name}'" for name in names)
    for name in names:
        local, site = structure.locals[name], sites[name]
        if "chain" in local.kind:
            raise ValueError(
                f"Site '{name}': found a chain among the coupled sites {listed}. "
                "Accepted in a graph: Categorical and Gaussian vectors, a chain of "
                "them as one site for each step."
            )
        if site.mask is not None and name not in structure.labels:
            raise ValueError(
                f"Site '{name}': found a mask on a latent site of the graph {listed}. "
                "Accepted: masks on observed sites and on potentials."
            )
    _check_likelihoods(structure, group, listed)
    scales = {float(s) for s in (sites[n].scale for n in names) if _known(s)}
    if len(scales) > 1:
        raise ValueError(
            f"Sites {listed}: coupled, and scaled differently: {sorted(scales)}. "
            "Accepted: subsampling in plates that are around all of them."
        )
    members = set(names)
    scopes = [scope(structure, f) for f in structure.factors]
    variables = [variable_of(structure, sites[name]) for name in names]
    try:
        elimination_order(variables, [s for s in scopes if members & set(s)])
    except ValueError as error:
        raise ValueError(f"Sites {listed}: {error}") from None


def _known(scale: Array | float) -> bool:
    return not isinstance(scale, jax.core.Tracer)


def _check_likelihoods(structure: Structure, group: Group, listed: str) -> None:
    for name, latents in structure.likelihoods.items():
        if group.discrete and latents & {*group.discrete, *group.states}:
            raise ValueError(
                f"Site '{name}': its likelihood is sampled, and depends on a graph "
                f"with discrete sites ({listed}), whose states cannot be averaged "
                "over one by one. Accepted: conjugate observations of such a graph, or "
                "a graph of Gaussian sites."
            )
