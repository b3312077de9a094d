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
from numpyro_svae.program.run.axes import Axes

__all__ = ["JointDraw", "plate_sizes"]

Term = GaussianTerm | TableTerm


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["terms", "uncounted", "log_normalizer", "origins"],
    meta_fields=["variables", "axes", "sizes"],
)
@dataclass(frozen=True)
class JointDraw:
    """The joint posterior of the sites of a graph, to draw from.

    :param terms: all terms of the graph, about the origins of its Gaussian sites.
    :param uncounted: terms that the density of a sample leaves out.
    :param log_normalizer: of their product.
    :param origins: by plates.
    :param variables: of the graph.
    :param axes: the positions of each of them.
    :param sizes: names and sizes of all plates.
    """

    terms: tuple[Term, ...]
    uncounted: tuple[Term, ...]
    log_normalizer: Array
    origins: dict[str, Array]
    variables: tuple[Variable, ...]
    axes: tuple[Axes, ...]
    sizes: tuple[tuple[str, int], ...]

    def sample(self, key: Array) -> dict[str, tuple[Array, Array]]:
        """A joint sample: for each site its value and a share of the log density.

        The shares have the batch shapes of the sites, and add up to the log density.
        """
        drawn = graph.draw(key, self.variables, dict(self.sizes), self.terms)
        total = total_of_terms(self.variables, self.terms, drawn) - self.log_normalizer
        total = total - total_of_terms(self.variables, self.uncounted, drawn)
        found = {}
        for variable, axes in zip(self.variables, self.axes):
            value = drawn[variable.name] + self.origins.get(variable.name, 0)
            value = axes.to_positions(value)
            share = total / len(self.variables)
            found[variable.name] = value, axes.share(share)
        return found


def plate_sizes(axes: tuple[Axes, ...]) -> dict[str, int]:
    """Sizes of all plates."""
    return {name: size for a in axes for name, size in zip(a.plates, a.sizes)}
