# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The value of a graph's log factors at given values of all of its variables."""

from collections.abc import Mapping, Sequence

from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.graph_terms import (
    GaussianTerm,
    Term,
    Variable,
    by_member,
    shared_plates,
)

__all__ = ["total_of_terms"]


def total_of_terms(
    variables: Sequence[Variable], terms: Sequence[Term], values: Mapping[str, Array]
) -> Array:
    """The sum of all terms, which is the log density of a graph less its normaliser.

    :param variables: all variables.
    :param terms: log factors.
    :param values: by name, ``(*plates, D)`` or states ``(*plates)``.
    :return: by member of the plates that all variables are in, ``(*shared)``.
    """
    declared, shared = {v.name: v for v in variables}, shared_plates(variables)

    def value(term: Term) -> Array:
        return by_member(_value(term, declared, values), term.plates, shared)

    return sum(map(value, terms), jnp.zeros(()))


def _value(term: Term, declared: Mapping[str, Variable], values: Mapping) -> Array:
    """A term by plate, ``(*plates)``."""

    def pick(table: Array) -> Array:
        """Entries ``(*plates, *event)`` of a table ``(*plates, *states, *event)``."""
        axis = len(term.plates)
        for name in term.states:
            states = _in_plates(term, declared[name], values[name], 0)
            shape = states.shape + (1,) * (table.ndim - axis)
            index = jnp.reshape(states, shape)
            table = jnp.take_along_axis(table, index, axis)
            table = jnp.squeeze(table, axis)
        return table

    if not isinstance(term, GaussianTerm):
        return pick(term.logits)
    plates = term.constant.shape[: len(term.plates)]
    parts = [_in_plates(term, declared[n], values[n], 1) for n in term.variables]
    x = jnp.concatenate(
        [jnp.broadcast_to(part, (*plates, part.shape[-1])) for part in parts], -1
    )
    info, precision = pick(term.info), pick(term.precision)
    quadratic = jnp.einsum("...i,...ij,...j->...", x, precision, x)
    linear = jnp.sum(info * x, -1)
    return pick(term.constant) + linear - 0.5 * quadratic


def _in_plates(term: Term, variable: Variable, value: Array, event_dim: int) -> Array:
    """A value of a variable, with an axis for each plate of a term."""
    own = sorted(variable.plates, key=term.plates.index)
    order = [variable.plates.index(plate) for plate in own]
    event = range(len(order), len(order) + event_dim)
    value = jnp.transpose(value, (*order, *event))
    missing = [i for i, plate in enumerate(term.plates) if plate not in own]
    return jnp.expand_dims(value, missing)
