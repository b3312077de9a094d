# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds data that pick entries of a latent site which it does not have.

JAX takes the nearest entry there, and says nothing: a label that is too large, or a
group that held-out data have and the program has not, would pass for the last one. So
would the last state of a label that has more of them than there are members to pick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import random
from jax.errors import JAXTypeError
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.extend.core.primitives import jit_p
from jax.lax import GatherScatterMode
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.handlers import block, seed, trace
from numpyro.util import not_jax_tracer

from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.scans import is_scanned

__all__ = ["check_indices"]

_STATES = type(constraints.integer_interval(0, 1))


def check_indices(
    model: Callable,
    given: dict[str, Any],
    args: tuple,
    kwargs: dict[str, Any],
    messages: dict[str, dict],
) -> None:
    """Data that index latent sites must be in range, where their values are known, and
    so must the last states of labels, whatever they index.

    What asks for something else out of range, by a ``mode``, has it.

    :param model: a program.
    :param given: values of parameters and plates.
    :param args: arguments of the program.
    :param kwargs: keyword arguments of the program.
    :param messages: of a run of it, of which the shapes of latent sites are taken.
    :raises ValueError: naming the sites, the index, where it is, and the range.
    """
    latents = {
        name: jax.ShapeDtypeStruct(jnp.shape(m["value"]), jnp.result_type(m["value"]))
        for name, m in sorted(messages.items())  # as leaves of a dictionary are
        if m["type"] == "sample" and not m["is_observed"] and not is_scanned(m)
    }

    def run(values: dict[str, Any]) -> None:
        with block():
            fixed = Fixed(seed(model, random.PRNGKey(0)), data={**given, **values})
            trace(fixed).get_trace(*args, **kwargs)

    try:
        closed = jax.make_jaxpr(run)(latents)
    except JAXTypeError:  # the model has to know values of its arguments
        return
    atoms = [
        _Atom(_last_states(messages[name], like), frozenset({name}))
        for name, like in latents.items()
    ]
    _walk(closed, atoms)


class _Atom(NamedTuple):
    """What is known of an array: its value, if it is of whole numbers and depends on
    no latent site but labels, and the latent sites that it depends on."""

    value: np.ndarray | None
    origins: frozenset[str]


def _last_states(message: dict, like: jax.ShapeDtypeStruct) -> np.ndarray | None:
    """The last states of a label; None of what has none."""
    support = message["fn"].support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    last = 1 if support is constraints.boolean else None
    if isinstance(support, _STATES):
        last = support.upper_bound
    return None if last is None else np.full(like.shape, last, like.dtype)


def _known(value: Any) -> _Atom:
    """A constant; numbers that are not whole pick nothing."""
    whole = not_jax_tracer(value) and not jnp.issubdtype(
        value.dtype, jax.dtypes.extended
    )
    whole = whole and np.dtype(value.dtype).kind in "iub"
    return _Atom(np.asarray(value) if whole else None, frozenset())


def _walk(closed: ClosedJaxpr, given: Sequence[_Atom]) -> list[_Atom]:
    """Follow a computation, and check what it picks."""
    jaxpr: Jaxpr = closed.jaxpr
    found = dict(zip(jaxpr.constvars, map(_known, closed.consts)))
    found |= dict(zip(jaxpr.invars, given))

    def read(atom: Any) -> _Atom:
        if isinstance(atom, Literal):
            return _known(np.asarray(atom.val))
        return found[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive is jit_p:
            outputs = _walk(eqn.params["jaxpr"], inputs)
        else:
            _check(eqn, inputs)
            outputs = _result(eqn, inputs)
        found.update(zip(eqn.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars]


def _result(eqn: Any, inputs: list[_Atom]) -> list[_Atom]:
    """What comes out of an operation."""
    origins = frozenset[str]().union(*(x.origins for x in inputs))
    compute = _COMPUTED.get(eqn.primitive.name)
    values = [x.value for x in inputs]
    if compute is None or any(value is None for value in values):
        return [_Atom(None, origins)] * len(eqn.outvars)
    return [_Atom(compute(eqn.params, *values), origins)]


# Operations between data and the indices that they are.
_COMPUTED: dict[str, Callable[..., np.ndarray]] = {
    "add": lambda _, x, y: x + y,
    "sub": lambda _, x, y: x - y,
    "mul": lambda _, x, y: x * y,
    "lt": lambda _, x, y: x < y,
    "select_n": lambda _, which, *cases: np.where(which, cases[-1], cases[0]),
    "broadcast_in_dim": lambda params, x: _spread(x, **params),
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: x.squeeze(params["dimensions"]),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "slice": lambda params, x: x[
        tuple(
            map(
                slice,
                params["start_indices"],
                params["limit_indices"],
                params["strides"] or (None,) * x.ndim,
            )
        )
    ],
}


def _spread(
    x: np.ndarray, shape: tuple, broadcast_dimensions: tuple, **_: Any
) -> np.ndarray:
    sizes = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape):
        sizes[axis] = size
    return np.broadcast_to(x.reshape(sizes), shape)


def _check(eqn: Any, inputs: list[_Atom]) -> None:
    """What picks entries of a latent array must find them there."""
    params = eqn.params
    if not any(x.origins for x in inputs):
        return
    shape = eqn.invars[0].aval.shape
    if eqn.primitive.name == "gather":
        if params["mode"] is not GatherScatterMode.PROMISE_IN_BOUNDS:
            return
        index = inputs[1].value
        axes = params["dimension_numbers"].start_index_map
        parts = [None if index is None else index[..., k] for k in range(len(axes))]
    elif eqn.primitive.name == "dynamic_slice":
        parts, axes = [x.value for x in inputs[1:]], range(len(shape))
    else:
        return
    for axis, part in zip(axes, parts):
        last = shape[axis] - params["slice_sizes"][axis]
        if part is not None and np.any((part < 0) | (part > last)):
            labels = frozenset[str]().union(*(x.origins for x in inputs[1:]))
            raise _out_of_range(inputs[0].origins, labels, part, shape[axis], last)


def _out_of_range(
    names: frozenset[str],
    labels: frozenset[str],
    index: np.ndarray,
    size: int,
    last: int,
) -> ValueError:
    wrong = np.argwhere((index < 0) | (index > last))
    at = tuple(map(int, wrong[0]))
    value = int(index[at])
    value = value - size if value < 0 else value  # JAX has counted from the end
    where = f" at {at}, the first of {len(wrong)} such ones," if index.ndim else ""
    sites, by = (
        ", ".join(f"'{name}'" for name in sorted(found)) for found in (names, labels)
    )
    if labels:
        return ValueError(
            f"Site {by}: found the index {value} of an axis of size {size}, of "
            f"{sites or 'known numbers'}, in the last state. Accepted: as many members "
            "as there are states; JAX would take the nearest one without a word."
        )
    return ValueError(
        f"{'Site' if len(names) == 1 else 'Sites'} {sites}: found the index "
        f"{value}{where} of an axis of size {size}. Accepted: indices up to {last}, or "
        f"from {-size} on if they count from the end; JAX would take the nearest entry "
        "without a word. A group that has no data yet needs a place in its plate; "
        "where data are masked, any index in range does."
    )
