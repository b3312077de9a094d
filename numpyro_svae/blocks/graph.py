# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Exact inference in any tractable graph of Gaussian and discrete latents in plates.

This is the general block: it takes whatever the hand-written chains and mixtures do not
cover. Variables are eliminated one at a time, inner plates first, and in each plate the
real ones before the discrete ones that select them. Everything else follows from the
log normaliser: expected statistics are its gradient, and the joint factors met on the
way, taken backwards, are the conditionals of an exact sample.

Variables are eliminated one by one, so compile time grows with their number; the size of
plates is free. Accuracy is that of the information form: couplings that are nearly
deterministic need float64.

**References:** F. Obermeyer, E. Bingham, M. Jankowiak, J. Chiu, N. Pradhan, A. Rush,
N. Goodman, "Tensor variable elimination for plated factor graphs", ICML (2019);
F. Obermeyer, E. Bingham, M. Jankowiak, D. Phan, J. Chen, "Functional tensors for
probabilistic programming", arXiv:1910.10775 (2019).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import NamedTuple

from funsor import Bint, Tensor, ops
from funsor.tensor import align_tensor
import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph_factors import (
    Factor,
    draw_real,
    draw_state,
    factor,
    funsor_on_jax,
    integrate,
    product,
    sum_out,
    total_over,
)
from numpyro_svae.blocks.graph_order import elimination_order
from numpyro_svae.blocks.graph_terms import (
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
    "infer",
]


class GaussianStatistics(NamedTuple):
    """Expected statistics of a Gaussian term, jointly with the states it depends on.

    With ``1{s}`` the indicator of the states ``s``: ``probability`` is ``E[1{s}]``,
    ``(*plates, *states)``; ``first`` is ``E[1{s} x]``, ``(*plates, *states, S)``; and
    ``second`` is ``E[1{s} x x']``, ``(*plates, *states, S, S)``. They are the
    derivatives of the log normaliser by ``constant``, ``info`` and ``-precision / 2``.
    """

    probability: Array
    first: Array
    second: Array


class GaussianMarginal(NamedTuple):
    """``mean (*plates, D)`` and ``covariance (*plates, D, D)`` of a real variable."""

    mean: Array
    covariance: Array


class GraphPosterior(NamedTuple):
    """Exact posterior of a graph.

    :param log_normalizer: shape ``()``.
    :param terms: for every term in turn, its :class:`GaussianStatistics`, or the
        probabilities ``(*plates, *states)`` of a table.
    :param variables: by name, the :class:`GaussianMarginal` of a real variable or the
        probabilities ``(*plates, size)`` of a discrete one.
    """

    log_normalizer: Array
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
        not tractable; see :func:`elimination_order` for what is.
    """
    return _eliminate(*_static(variables, plate_sizes, terms))


def infer(
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
) -> GraphPosterior:
    """The log normaliser with all expected statistics; arguments as for ``eliminate``.

    Differentiable once more: statistics depend smoothly on the terms.
    """
    return _infer(*_static(variables, plate_sizes, terms))


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
    return _draw(key, *_static(variables, plate_sizes, terms))


Static = tuple[tuple[Variable, ...], tuple[tuple[str, int], ...]]


def _static(
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
) -> tuple[Static, tuple[Term, ...]]:
    """Checked arguments, with what is static in hashable form."""
    terms = checked(variables, plate_sizes, terms)
    return (tuple(variables), tuple(plate_sizes.items())), terms


def _neutral_terms(static: Static, terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """One more term for each variable, in all of its plates, whose statistics are its
    marginals."""
    variables, plate_sizes = static
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(terms))
    return tuple(neutral(v, dict(plate_sizes), dtype) for v in variables)


@funsor_on_jax()
def _forward(
    static: Static, terms: tuple[Term, ...]
) -> tuple[Array, list[tuple[Variable, Factor]]]:
    """The log normaliser, and each variable with the joint factor it was taken from."""
    variables, plate_sizes = static
    declared = {v.name: v for v in variables}
    plates = frozenset(name for name, _ in plate_sizes)
    domains = {name: Bint[size] for name, size in plate_sizes}
    domains |= {v.name: Bint[v.size] for v in variables if v.discrete}
    factors = [factor(term, declared, domains) for term in terms]
    joints = []
    for name in elimination_order(variables, [f.names - plates for f in factors]):
        v = declared[name]
        joint = product(
            [
                total_over(f.names & plates - set(v.plates), f, domains)
                for f in factors
                if name in f.names
            ]
        )
        rest = sum_out(joint, name) if v.discrete else integrate(joint, name)
        factors = [f for f in factors if name not in f.names] + [rest]
        joints.append((v, joint))
    totals = [total_over(f.names, f, domains).constant for f in factors]
    return reduce(ops.add, totals).data, joints


@partial(jax.jit, static_argnums=0)
def _eliminate(static: Static, terms: tuple[Term, ...]) -> Array:
    return _forward(static, terms + _neutral_terms(static, terms))[0]


@partial(jax.jit, static_argnums=0)
def _infer(static: Static, terms: tuple[Term, ...]) -> GraphPosterior:
    def log_normalizer(all_terms):
        return _forward(static, all_terms)[0]

    all_terms = terms + _neutral_terms(static, terms)
    value, gradient = jax.value_and_grad(log_normalizer)(all_terms)
    statistics = tuple(map(_statistics, gradient))
    variables, _ = static
    marginals = statistics[len(terms) :]
    return GraphPosterior(
        value,
        statistics[: len(terms)],
        {v.name: _marginal(s) for v, s in zip(variables, marginals)},
    )


def _statistics(gradient: Term) -> GaussianStatistics | Array:
    if isinstance(gradient, TableTerm):
        return gradient.logits
    return GaussianStatistics(
        gradient.constant, gradient.info, -2.0 * gradient.precision
    )


def _marginal(statistics: GaussianStatistics | Array) -> GaussianMarginal | Array:
    if not isinstance(statistics, GaussianStatistics):
        return statistics
    mean = statistics.first
    square = mean[..., :, None] * mean[..., None, :]
    return GaussianMarginal(mean, statistics.second - square)


@partial(jax.jit, static_argnums=1)
@funsor_on_jax()
def _draw(key: Array, static: Static, terms: tuple[Term, ...]) -> dict[str, Array]:
    variables, plate_sizes = static
    _, joints = _forward(static, terms + _neutral_terms(static, terms))
    keys = dict(zip([v.name for v in variables], jax.random.split(key, len(variables))))
    sizes = dict(plate_sizes)
    drawn: dict[str, Tensor] = {}
    for v, joint in reversed(joints):
        if v.discrete:
            drawn[v.name] = draw_state(keys[v.name], joint, v, drawn)
            continue
        domains = {plate: Bint[sizes[plate]] for plate in v.plates}
        shape = tuple(sizes[plate] for plate in v.plates) + (v.size,)
        dtype = joint.constant.data.dtype
        noise = Tensor(jax.random.normal(keys[v.name], shape, dtype), domains)
        drawn[v.name] = draw_real(joint, v.name, drawn, noise)
    return {
        v.name: align_tensor(
            OrderedDict((plate, Bint[sizes[plate]]) for plate in v.plates),
            drawn[v.name],
        )
        for v in variables
    }
