# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Exact inference in any tractable graph of Gaussian and discrete latents in plates.

This is the general block: it takes whatever the hand-written chains and mixtures do not
cover. Variables are eliminated one at a time, inner plates first, and in each plate the
real ones before the discrete ones that select them. Everything else follows from the
log normaliser: expected statistics are its gradient, and the joint factors met on the
way, taken backwards, are the conditionals of an exact sample.

Variables are eliminated one by one, so compile time grows with their number; the size
of plates is free. Accuracy is that of the information form: couplings that are nearly
deterministic need float64.

**References:** F. Obermeyer, E. Bingham, M. Jankowiak, J. Chiu, N. Pradhan, A. Rush,
N. Goodman, "Tensor variable elimination for plated factor graphs", ICML (2019);
F. Obermeyer, E. Bingham, M. Jankowiak, D. Phan, J. Chen, "Functional tensors for
probabilistic programming", arXiv:1910.10775 (2019).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from funsor import Tensor
import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph_elimination import (
    Graph,
    backward,
    factors,
    forward,
    in_plates,
    most_probable,
)
from numpyro_svae.blocks.graph_factors import funsor_on_jax, shifted
from numpyro_svae.blocks.graph_order import elimination_order
from numpyro_svae.blocks.graph_terms import (
    GaussianStatistics,
    GaussianTerm,
    TableTerm,
    Term,
    Variable,
    checked,
    neutral,
)

__all__ = [
    "GaussianMarginal",
    "GaussianStatistics",
    "GaussianTerm",
    "GraphPosterior",
    "TableTerm",
    "Variable",
    "draw",
    "eliminate",
    "elimination_order",
    "infer",
    "locate",
]

Terms = tuple[Term, ...]


class GaussianMarginal(NamedTuple):
    """``mean (*plates, D)`` and ``covariance (*plates, D, D)`` of a real variable."""

    mean: Array
    covariance: Array


class GraphPosterior(NamedTuple):
    """Exact posterior of a graph.

    :param log_normalizer: shape ``()``.
    :param log_normalizers: of the graphs that it is the sum of, one for each member of
        the plates that all variables are in, ``(*shared)``.
    :param terms: for every term in turn, its :class:`GaussianStatistics`, or the
        probabilities ``(*plates, *states)`` of a table.
    :param variables: by name, the :class:`GaussianMarginal` of a real variable or the
        probabilities ``(*plates, size)`` of a discrete one.
    """

    log_normalizer: Array
    log_normalizers: Array
    terms: tuple[GaussianStatistics | Array, ...]
    variables: dict[str, GaussianMarginal | Array]


def eliminate(
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
) -> Array:
    """The log normaliser, the logarithm of the sum and integral of all terms' product.

    :param variables: all latent variables.
    :param plate_sizes: sizes of all plates.
    :param terms: log factors; a term counts once for each member of its plates.
    :return: shape ``()``. It is ``-inf`` if the tables leave no assignment possible,
        and NaN if the terms together are not proper.
    :raises ValueError: if a term does not fit the variables and plates, or the graph is
        not tractable. :func:`elimination_order` says so from the names in each term
        alone, before there are any arrays.
    """
    return _eliminate(*_checked(variables, plate_sizes, terms))


def infer(
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
    *,
    located: bool = False,
) -> GraphPosterior:
    """The log normaliser with all expected statistics; arguments as for ``eliminate``.

    Differentiable once more: statistics depend smoothly on the terms.

    :param located: whether real variables are near zero already, as they are less what
        :func:`locate` finds.
    """
    graph, *both = _checked(variables, plate_sizes, terms)
    return _infer(graph, located, *both)


def locate(
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
) -> dict[str, Array]:
    """Where the bulk of the posterior of each real variable is, ``(*plates, D)``.

    A constant for derivatives. Terms that are made as functions of what is left keep
    all digits, where log normalisers are small differences of large terms otherwise.
    """
    return _locate(*_checked(variables, plate_sizes, terms))


def draw(
    key: Array,
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
) -> dict[str, Array]:
    """One exact sample of all variables; arguments as for ``eliminate``.

    Use ``jax.vmap`` over keys for more.

    :return: by name, ``(*plates, D)`` for a real variable, differentiable by the terms
        with the noise and the discrete variables held fixed, and integers ``(*plates)``
        for a discrete one.
    """
    return _draw(key, *_checked(variables, plate_sizes, terms))


def _checked(
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
) -> tuple[Graph, tuple[Term, ...], tuple[Term, ...]]:
    """The graph, its terms, and one more term for each variable that says nothing: it
    puts the variable into all of its plates, and its statistics are the marginals."""
    terms = checked(variables, plate_sizes, terms)
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(terms))
    graph = Graph(tuple(variables), tuple(plate_sizes.items()))
    return graph, terms, tuple(neutral(v, plate_sizes, dtype) for v in variables)


@partial(jax.jit, static_argnums=0)
@funsor_on_jax()
def _eliminate(graph: Graph, terms: Terms, marginal_terms: Terms) -> Array:
    return jnp.sum(forward(graph, factors(graph, terms + marginal_terms))[0])


@partial(jax.jit, static_argnums=0)
@funsor_on_jax()
def _locate(graph: Graph, terms: Terms, marginal_terms: Terms) -> dict[str, Array]:
    origin = _origin(graph, terms + marginal_terms)
    real = (v.name for v in graph.variables if not v.discrete)
    return {name: in_plates(graph, name, origin[name]) for name in real}


def _origin(graph: Graph, terms: Terms) -> dict[str, Tensor]:
    _, conditionals = forward(graph, factors(graph, terms))
    return jax.tree.map(_constant, most_probable(graph, conditionals))


@partial(jax.jit, static_argnums=(0, 1))
@funsor_on_jax()
def _infer(
    graph: Graph, located: bool, terms: Terms, marginal_terms: Terms
) -> GraphPosterior:
    """Terms of variables are relative to an origin near their means, without which
    covariances would be small differences of large second moments."""
    origin = None if located else _origin(graph, terms + marginal_terms)

    def log_normalizer(terms, marginal_terms):
        moved = factors(graph, terms)
        if origin is not None:
            moved = [shifted(f, origin) for f in moved]
        each = forward(graph, moved + factors(graph, marginal_terms))[0]
        return jnp.sum(each), each

    statistics = jax.value_and_grad(log_normalizer, (0, 1), has_aux=True)
    (value, each), (by_term, by_variable) = statistics(terms, marginal_terms)
    marginals = {}
    for v, gradient in zip(graph.variables, by_variable):
        marginal = _marginal(_statistics(gradient))
        if isinstance(marginal, GaussianMarginal) and origin is not None:
            mean = marginal.mean + in_plates(graph, v.name, origin[v.name])
            marginal = marginal._replace(mean=mean)
        marginals[v.name] = marginal
    return GraphPosterior(value, each, tuple(map(_statistics, by_term)), marginals)


def _constant(value: Tensor) -> Tensor:
    return Tensor(jax.lax.stop_gradient(value.data), value.inputs, value.dtype)


def _statistics(gradient: Term) -> GaussianStatistics | Array:
    if isinstance(gradient, TableTerm):
        return gradient.logits
    return GaussianStatistics(
        gradient.constant, gradient.info, -2.0 * gradient.precision
    )


def _marginal(statistics: GaussianStatistics | Array) -> GaussianMarginal | Array:
    if not isinstance(statistics, GaussianStatistics):
        return statistics
    shift = statistics.first
    square = shift[..., :, None] * shift[..., None, :]
    return GaussianMarginal(shift, statistics.second - square)


@partial(jax.jit, static_argnums=1)
@funsor_on_jax()
def _draw(
    key: Array, graph: Graph, terms: Terms, marginal_terms: Terms
) -> dict[str, Array]:
    _, conditionals = forward(graph, factors(graph, terms + marginal_terms))
    dtype = jax.tree.leaves(marginal_terms)[0].dtype
    keys = dict(zip(graph.declared, jax.random.split(key, len(graph.variables))))
    drawn = backward(
        graph,
        conditionals,
        lambda name, logits: jax.random.categorical(keys[name], logits),
        lambda name, shape: jax.random.normal(keys[name], shape, dtype),
    )
    return {name: in_plates(graph, name, drawn[name]) for name in graph.declared}
