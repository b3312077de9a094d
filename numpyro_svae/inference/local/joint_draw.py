# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Joint samples of the local sites of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
from jax import Array

from numpyro_svae.blocks import graph
from numpyro_svae.blocks.graph import GaussianTerm, TableTerm, Variable
from numpyro_svae.blocks.graph_density import total_of_terms
from numpyro_svae.blocks.graph_terms import shared_plates
from numpyro_svae.program.run.axes import Axes

__all__ = ["JointDraw", "plate_sizes"]

Term = GaussianTerm | TableTerm


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["terms", "uncounted", "log_normalizers", "origins"],
    meta_fields=["variables", "axes", "sizes"],
)
@dataclass(frozen=True)
class JointDraw:
    """The joint posterior of the sites of a graph, to draw from.

    :param terms: all terms of the graph, about the origins of its Gaussian sites.
    :param uncounted: terms that the density of a sample leaves out.
    :param log_normalizers: of their product, by member of the plates that all
        variables are in.
    :param origins: by plates.
    :param variables: of the graph.
    :param axes: the positions of each of them.
    :param sizes: names and sizes of all plates.
    """

    terms: tuple[Term, ...]
    uncounted: tuple[Term, ...]
    log_normalizers: Array
    origins: dict[str, Array]
    variables: tuple[Variable, ...]
    axes: tuple[Axes, ...]
    sizes: tuple[tuple[str, int], ...]

    def sample(self, key: Array) -> dict[str, tuple[Array, Array]]:
        """A joint sample: for each site its value and a share of the log density.

        The shares have the batch shapes of the sites, and add up to the log density, in
        each member of the plates that all of them are in.
        """
        drawn = graph.draw(key, self.variables, dict(self.sizes), self.terms)
        total = total_of_terms(self.variables, self.terms, drawn) - self.log_normalizers
        total = total - total_of_terms(self.variables, self.uncounted, drawn)
        found, shared = {}, shared_plates(self.variables)
        for variable, axes in zip(self.variables, self.axes):
            value = drawn[variable.name] + self.origins.get(variable.name, 0)
            value = axes.to_positions(value)
            share = total / len(self.variables)
            found[variable.name] = value, axes.share(share, shared)
        return found


def plate_sizes(axes: tuple[Axes, ...]) -> dict[str, int]:
    """Sizes of all plates."""
    return {name: size for a in axes for name, size in zip(a.plates, a.sizes)}
