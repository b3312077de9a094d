# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Local sites that form general graphs: which of them are accepted."""

from __future__ import annotations

import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.blocks.graph import Variable, elimination_order
from numpyro_svae.program.run.axes import axes_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Local, Structure
from numpyro_svae.program.structure.groups import Group, coupled_groups, scope

__all__ = ["check_graphs", "variable_of"]


def variable_of(local: Local, site: Site) -> Variable:
    """The variable of a graph that a local site is."""
    return Variable(local.name, local.size, local.discrete, axes_of(site).plates)


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
    _check_likelihoods(structure, group, listed)
    found = [sites[name].scale for name in names]  # arrays are refused later
    scales = {float(s) for s in found if not_jax_tracer(s) and not np.ndim(s)}
    if len(scales) > 1:
        raise ValueError(
            f"Sites {listed}: coupled, and scaled differently: {sorted(scales)}. "
            "Accepted: subsampling in plates that are around all of them."
        )
    members = set(names)
    scopes = [scope(structure, f) for f in structure.factors]
    variables = [variable_of(structure.locals[name], sites[name]) for name in names]
    try:
        elimination_order(variables, [s for s in scopes if members & set(s)])
    except ValueError as error:
        raise ValueError(f"Sites {listed}: {error}") from None


def _check_likelihoods(structure: Structure, group: Group, listed: str) -> None:
    for name, latents in structure.likelihoods.items():
        if group.discrete and latents & {*group.discrete, *group.states}:
            raise ValueError(
                f"Site '{name}': its likelihood is sampled, and depends on a graph "
                f"with discrete sites ({listed}), whose states cannot be averaged "
                "over one by one. Accepted: conjugate observations of such a graph, or "
                "a graph of Gaussian sites."
            )
