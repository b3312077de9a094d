# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Variables and terms of a graph of Gaussian and discrete latents, and their checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

__all__ = [
    "GaussianTerm",
    "TableTerm",
    "Term",
    "Variable",
    "by_member",
    "checked",
    "neutral",
    "shared_plates",
]


@dataclass(frozen=True)
class Variable:
    """A latent variable, repeated over plates.

    :param name: unique among variables and plates.
    :param size: the dimension of a Gaussian vector, or the number of states.
    :param discrete: whether it is a state, an integer from 0 to ``size - 1``.
    :param plates: its plates, outermost first; ``()`` for a single variable.
    """

    name: str
    size: int
    discrete: bool = False
    plates: tuple[str, ...] = ()


def shared_plates(variables: Sequence[Variable]) -> tuple[str, ...]:
    """The plates that all variables are in: their members are graphs of their own."""
    plates = [v.plates for v in variables]
    return tuple(p for p in plates[0] if all(p in own for own in plates))


def by_member(value: Array, plates: Sequence[str], shared: Sequence[str]) -> Array:
    """Sums ``(*shared)`` of what a term has, ``(*plates, ...)``.

    :param value: the array.
    :param plates: of the term.
    :param shared: the plates that stay, in their order.
    """
    left = [plate for plate in plates if plate in shared]
    others = (i for i, p in enumerate(plates) if p not in shared)
    total = jnp.sum(value, (*others, *range(len(plates), value.ndim)))
    return jnp.transpose(total, [left.index(plate) for plate in shared])


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


@dataclass(frozen=True, eq=False)
class GaussianTerm:
    r"""A quadratic log factor :math:`c + h^\top x - \tfrac12 x^\top J x`.

    :math:`x` concatenates real variables, and :math:`h`, :math:`J`, :math:`c` may
    depend on discrete ones. A term alone need not be normalisable, but all terms of a
    graph together must be. It is a pytree of its three arrays.

    :param variables: real variables, in the order of concatenation; ``S`` is the sum
        of their sizes.
    :param states: discrete variables.
    :param plates: a superset of the plates of all these variables.
    :param info: :math:`h`, ``(*plates, *states, S)``: one axis of the size of each
        plate, one of the number of states of each discrete variable, and ``x``.
    :param precision: :math:`J`, ``(*plates, *states, S, S)``, positive semi-definite.
        Only its symmetric part is used.
    :param constant: :math:`c`, ``(*plates, *states)``.
    """

    variables: tuple[str, ...]
    states: tuple[str, ...]
    plates: tuple[str, ...]
    info: Array
    precision: Array
    constant: Array

    def expected(self, statistics: GaussianStatistics) -> Array:
        """Its expectation, ``(*plates, *states)``, from what is expected of it."""
        value = statistics.probability * self.constant
        value = value + jnp.sum(statistics.first * self.info, -1)
        return value - 0.5 * jnp.sum(statistics.second * self.precision, (-2, -1))


@dataclass(frozen=True, eq=False)
class TableTerm:
    """A log factor over discrete variables. It is a pytree of its one array.

    :param states: discrete variables.
    :param plates: a superset of their plates.
    :param logits: ``(*plates, *states)``; may hold ``-inf``.
    """

    states: tuple[str, ...]
    plates: tuple[str, ...]
    logits: Array

    def expected(self, probs: Array) -> Array:
        """Its expectation, ``(*plates, *states)``; what is impossible counts nothing.

        :param probs: of the states.
        """
        return probs * jnp.where(probs > 0, self.logits, 0.0)


Term = GaussianTerm | TableTerm

jax.tree_util.register_dataclass(
    GaussianTerm,
    data_fields=["info", "precision", "constant"],
    meta_fields=["variables", "states", "plates"],
)
jax.tree_util.register_dataclass(
    TableTerm, data_fields=["logits"], meta_fields=["states", "plates"]
)


def checked(
    variables: Sequence[Variable],
    plate_sizes: Mapping[str, int],
    terms: Sequence[Term],
) -> tuple[Term, ...]:
    """The terms with arrays of one floating type.

    :raises ValueError: for a name that is used twice or is not declared, a variable
        of the wrong kind, a term that lacks a plate of its variables, an array of the
        wrong shape (the message names the term by its index), and a real variable in
        no Gaussian term.
    """
    _check_variables(variables, plate_sizes)
    declared = {v.name: v for v in variables}
    for index, term in enumerate(terms):
        _check_names(index, term, declared, plate_sizes)
        _check_shapes(index, term, declared, plate_sizes)
    mentioned = {name for term in terms for name in _real(term)}
    for v in variables:
        if not v.discrete and v.name not in mentioned:
            raise ValueError(
                f"variable {v.name!r}: found in no Gaussian term; accepted are real "
                "variables to which the terms together give a proper density."
            )
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(tuple(terms)))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tuple(terms))


def _real(term: Term) -> tuple[str, ...]:
    return term.variables if isinstance(term, GaussianTerm) else ()


def _check_variables(
    variables: Sequence[Variable], plate_sizes: Mapping[str, int]
) -> None:
    names = [v.name for v in variables] + list(plate_sizes)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"names {repeated}: found more than once; accepted are variables and "
            "plates with different names."
        )
    for v in variables:
        _check_plates(f"variable {v.name!r}", v.plates, plate_sizes)
        if v.size < 1:
            raise ValueError(
                f"variable {v.name!r}: found size {v.size}; accepted is at least 1."
            )


def _check_plates(
    owner: str, plates: Sequence[str], plate_sizes: Mapping[str, int]
) -> None:
    unknown = [plate for plate in plates if plate not in plate_sizes]
    if unknown or len(set(plates)) < len(plates):
        raise ValueError(
            f"{owner}: found plates {tuple(plates)}; accepted are different plates "
            f"among {tuple(plate_sizes)}."
        )


def _check_names(
    index: int,
    term: Term,
    declared: Mapping[str, Variable],
    plate_sizes: Mapping[str, int],
) -> None:
    owner = f"term {index}"
    _check_plates(owner, term.plates, plate_sizes)
    for kind, names, discrete in (
        ("variables", _real(term), False),
        ("states", term.states, True),
    ):
        accepted = tuple(v.name for v in declared.values() if v.discrete == discrete)
        if not set(names) <= set(accepted) or len(set(names)) < len(names):
            raise ValueError(
                f"{owner}: found {kind} {names}; accepted are different "
                f"{'discrete' if discrete else 'real'} variables among {accepted}."
            )
        for name in names:
            if not set(declared[name].plates) <= set(term.plates):
                raise ValueError(
                    f"{owner}: found plates {term.plates} with {name!r} in plates "
                    f"{declared[name].plates}; accepted is a term in all of them."
                )


def _check_shapes(
    index: int,
    term: Term,
    declared: Mapping[str, Variable],
    plate_sizes: Mapping[str, int],
) -> None:
    batch = tuple(plate_sizes[plate] for plate in term.plates)
    batch += tuple(declared[name].size for name in term.states)
    if isinstance(term, TableTerm):
        expected = {"logits": batch}
    else:
        size = sum(declared[name].size for name in term.variables)
        expected = {
            "info": (*batch, size),
            "precision": (*batch, size, size),
            "constant": batch,
        }
    for field, shape in expected.items():
        found = jnp.shape(getattr(term, field))
        if found != shape:
            names = "" if isinstance(term, TableTerm) else f" over {term.variables}"
            raise ValueError(
                f"term {index}, {field}: found shape {found}; accepted is {shape} for "
                f"plates {term.plates} and states {term.states}{names}."
            )


def neutral(variable: Variable, plate_sizes: Mapping[str, int], dtype) -> Term:
    """The term of one variable that says nothing about it."""
    batch = tuple(plate_sizes[plate] for plate in variable.plates)
    size, name = variable.size, variable.name
    if variable.discrete:
        return TableTerm((name,), variable.plates, jnp.zeros((*batch, size), dtype))
    return GaussianTerm(
        (name,),
        (),
        variable.plates,
        jnp.zeros((*batch, size), dtype),
        jnp.zeros((*batch, size, size), dtype),
        jnp.zeros(batch, dtype),
    )
