# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The order in which a graph of Gaussian and discrete latents is eliminated exactly.

A variable may go when every neighbour that is left (every variable that shares a
factor with it) lies in its own plates or outside of them: only then is the factor that
remains a product over plates. A discrete variable may go when no neighbour is
real: a mixture of Gaussians is no Gaussian. Removing a variable joins its neighbours.

Both conditions survive the removal of another variable that meets them, so the graph
can be eliminated in some order if and only if the greedy order does not get stuck.

**Reference:** F. Obermeyer, E. Bingham, M. Jankowiak, J. Chiu, N. Pradhan, A. Rush,
N. Goodman, "Tensor variable elimination for plated factor graphs", ICML (2019).
"""

from collections.abc import Iterable, Mapping, Sequence
import math

from numpyro_svae.blocks.graph_terms import Variable

__all__ = ["LARGEST_TABLE", "elimination_order"]

LARGEST_TABLE = 2**20
"""Most joint assignments of discrete variables that one factor may list."""


def elimination_order(
    variables: Sequence[Variable], scopes: Iterable[Iterable[str]]
) -> tuple[str, ...]:
    """Names of the variables, the first to be eliminated first.

    Among the variables that may go, the one with the smallest joint factor goes first.

    :param scopes: for every term, the names of its real and discrete variables.
    :raises ValueError: if the graph is not tractable, or if a joint table would list
        more than ``LARGEST_TABLE`` assignments in each plate.
    """
    declared = {v.name: v for v in variables}
    neighbors = _neighbors(declared, scopes)
    order: list[str] = []
    while neighbors:
        ready = [name for name in neighbors if not _blockers(name, neighbors, declared)]
        if not ready:
            raise ValueError(_intractable(neighbors, declared))
        cost, name = min((_cost(n, neighbors, declared), n) for n in ready)
        if cost[0] > LARGEST_TABLE:
            raise ValueError(_too_large(name, cost[0], neighbors[name], declared))
        joined = neighbors.pop(name)
        for other in joined:
            neighbors[other] = (neighbors[other] | joined) - {name, other}
        order.append(name)
    return tuple(order)


Graph = dict[str, set[str]]
Declared = Mapping[str, Variable]


def _neighbors(declared: Declared, scopes: Iterable[Iterable[str]]) -> Graph:
    neighbors: Graph = {name: set() for name in declared}
    for scope in map(set, scopes):
        for name in scope:
            neighbors[name] |= scope - {name}
    return neighbors


def _blockers(name: str, neighbors: Graph, declared: Declared) -> list[str]:
    """The neighbours that must go before a variable can."""
    variable = declared[name]
    return sorted(
        other
        for other in neighbors[name]
        if not set(declared[other].plates) <= set(variable.plates)
        or (variable.discrete and not declared[other].discrete)
    )


def _cost(name: str, neighbors: Graph, declared: Declared) -> tuple[int, int]:
    """Assignments of the states, and dimension, of the joint factor."""
    joint = [declared[other] for other in {name} | neighbors[name]]
    return (
        math.prod(v.size for v in joint if v.discrete),
        sum(v.size for v in joint if not v.discrete),
    )


def _described(variable: Variable) -> str:
    kind = "discrete" if variable.discrete else "Gaussian"
    plates = f", plates {variable.plates}" if variable.plates else ", no plates"
    return f"{variable.name!r} ({kind}{plates})"


def _intractable(neighbors: Graph, declared: Declared) -> str:
    waiting = "; ".join(
        f"{_described(declared[name])} waits for {_blockers(name, neighbors, declared)}"
        for name in neighbors
    )
    return (
        f"the graph cannot be eliminated exactly: {waiting}. Accepted are graphs in "
        "which discrete variables inside a plate select no Gaussian outside of it, and "
        "in which no factor joins variables of two plates where neither contains the "
        "other."
    )


def _too_large(name: str, entries: int, others: set[str], declared: Declared) -> str:
    states = sorted(n for n in {name} | others if declared[n].discrete)
    return (
        f"eliminating {_described(declared[name])} needs a table of {entries} entries "
        f"over {states}; accepted are graphs whose tables have at most "
        f"{LARGEST_TABLE}."
    )
