# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Forward elimination of a graph's variables, and the way back through conditionals."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from funsor import Bint, Tensor, ops
from funsor.tensor import align_tensor
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph_factors import (
    CanonicalFactor,
    Conditional,
    Domains,
    choose_state,
    factor,
    integrate,
    place_real,
    product,
    sum_out,
    total_over,
)
from numpyro_svae.blocks.graph_order import elimination_order
from numpyro_svae.blocks.graph_terms import Term, Variable, shared_plates

__all__ = ["Graph", "backward", "factors", "forward", "in_plates", "most_probable"]

Conditionals = dict[str, Conditional | Tensor]
"""By name, in the order of elimination, what a variable is given all later ones: a
Gaussian density, or logits."""


@dataclass(frozen=True)
class Graph:
    """What is static about a graph, in hashable form."""

    variables: tuple[Variable, ...]
    plate_sizes: tuple[tuple[str, int], ...]

    @property
    def declared(self) -> dict[str, Variable]:
        """The variables by name."""
        return {v.name: v for v in self.variables}

    @property
    def plates(self) -> frozenset[str]:
        """The names of the plates."""
        return frozenset(name for name, _ in self.plate_sizes)

    @property
    def domains(self) -> Domains:
        """The domains of plates and discrete variables."""
        sizes = dict(self.plate_sizes)
        sizes |= {v.name: v.size for v in self.variables if v.discrete}
        return {name: Bint[size] for name, size in sizes.items()}


def factors(graph: Graph, terms: Sequence[Term]) -> list[CanonicalFactor]:
    """The factors of terms."""
    return [factor(term, graph.declared, graph.domains) for term in terms]


def forward(graph: Graph, factors: list[CanonicalFactor]) -> tuple[Array, Conditionals]:
    """Log normalisers, and what each variable is given those eliminated later.

    The former are by member of the plates that all variables are in, ``(*shared)``.
    A variable's factors are first multiplied over the plates that it is not in.
    """
    domains, plates = graph.domains, graph.plates
    conditionals: Conditionals = {}
    for name in elimination_order(graph.variables, [f.names - plates for f in factors]):
        v = graph.declared[name]
        outside = plates - set(v.plates)
        joint = product(
            [
                total_over(f.names & outside, f, domains)
                for f in factors
                if name in f.names
            ]
        )
        take = sum_out if v.discrete else integrate
        rest, conditionals[name] = take(joint, name)
        factors = [f for f in factors if name not in f.names] + [rest]
    shared = shared_plates(graph.variables)
    totals = [total_over(f.names - {*shared}, f, domains).constant for f in factors]
    members = OrderedDict((plate, domains[plate]) for plate in shared)
    return align_tensor(members, reduce(ops.add, totals)), conditionals


def backward(
    graph: Graph,
    conditionals: Conditionals,
    choose: Callable[[str, Array], Array],
    noise: Callable[[str, tuple[int, ...]], Array],
) -> dict[str, Tensor]:
    """A value of each variable, the last to be eliminated first.

    :param choose: a state of the named variable, from logits in the last axis.
    :param noise: whitened deviations from the conditional mean, of the shape given.
    """
    drawn: dict[str, Tensor] = {}
    for name, q in reversed(conditionals.items()):
        v = graph.declared[name]
        if isinstance(q, Conditional):
            inputs = {plate: graph.domains[plate] for plate in v.plates}
            shape = tuple(domain.size for domain in inputs.values()) + (v.size,)
            drawn[name] = place_real(q, drawn, Tensor(noise(name, shape), inputs))
        else:
            drawn[name] = choose_state(q, v, drawn, choose)
    return drawn


def most_probable(graph: Graph, conditionals: Conditionals) -> dict[str, Tensor]:
    """A value of each variable near the bulk of the posterior: the most probable state
    or the mean, given those eliminated later."""
    return backward(
        graph,
        conditionals,
        lambda name, logits: jnp.argmax(logits, -1),
        lambda name, shape: jnp.zeros(shape, jnp.float32),
    )


def in_plates(graph: Graph, name: str, value: Tensor) -> Array:
    """The array of a variable's value, its plates in the order declared."""
    plates = graph.declared[name].plates
    return align_tensor(OrderedDict((p, graph.domains[p]) for p in plates), value)
