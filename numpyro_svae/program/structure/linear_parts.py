# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Splits a function into what is affine in its arguments, and the rest.

A likelihood of a regression is a function of a few predictors, which are affine in the
weights: ``log p(y | X w + b)``. Under Gaussian weights the predictors are Gaussian, so
that its expectation is an integral over as many dimensions as there are predictors at
one position, however many weights there are. The predictors are the last values on the
way from the arguments to the result that are affine in the arguments. They are found in
the operations that the function is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
import jax.numpy as jnp
import numpy as np

__all__ = ["Split", "split_linear"]

_FIRST = {  # linear in the first operand; all others are to be known
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "cumsum",
    "div",
    "dynamic_slice",
    "expand_dims",
    "gather",
    "neg",
    "reduce_sum",
    "reshape",
    "rev",
    "slice",
    "squeeze",
    "transpose",
}
_ANY = {"add", "add_any", "concatenate", "pad", "sub"}  # affine in all operands
_ONE = {"conv_general_dilated", "dot_general", "mul"}  # linear in each by itself
_MIXING = _ONE - {"mul"} | {"cumsum"}  # entries of the result are sums of several
_WIDER = {"concatenate", "pad"}  # the result has the operand in it, and known entries
_INDEXED = {"scatter", "scatter-add"}  # affine in all but the second
_INLINE = {"closed_call", "core_call", "jit", "pjit"}


@dataclass(frozen=True, eq=False)
class _Known:
    """An operand that is a number in the code of the function."""

    value: Any


class _Step(NamedTuple):
    """One operation: names of what goes in, or numbers, and of what comes out."""

    owner: Jaxpr
    operation: JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]

    @property
    def kind(self) -> str:
        """What it does."""
        return self.operation.primitive.name

    def __call__(self, values: dict[int, Any]) -> dict[int, Any]:
        """What comes out."""
        pairs = zip(self.operation.invars, self.inputs)
        given = {v: _value(x, values) for v, x in pairs if not isinstance(v, Literal)}
        alone = self.owner.replace(
            constvars=[],
            invars=[*given],
            outvars=list(self.operation.outvars),
            eqns=[self.operation],
            effects=self.operation.effects,
        )
        found = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values())
        return dict(zip(self.outputs, found))

    def is_affine(self, affine: frozenset[int] | set[int], dtype: Any) -> bool:
        """Whether it is affine in those operands that are, and in others known."""
        moves, name = [x in affine for x in self.inputs], self.kind
        if not any(moves) or not jnp.issubdtype(dtype, jnp.inexact):
            return False
        if name in _FIRST:
            return not any(moves[1:])
        if name in _ONE:
            return sum(moves) == 1
        if name == "select_n":
            return not moves[0]
        return name in _ANY or (name in _INDEXED and not moves[1])


class Split:
    """A function in two parts, of which the first is affine.

    :param steps: the operations, in order.
    :param known: what is known, by name.
    :param inputs: names of the arguments, which are flat.
    :param shapes: shapes and types of all that is computed, by name.
    :param output: name of the result, or the result.
    """

    def __init__(
        self,
        steps: list[_Step],
        known: dict[int, Any],
        inputs: tuple[int, ...],
        shapes: dict[int, Any],
        output: Any,
    ) -> None:
        self.known, self.inputs, self.shapes, self.output = (
            known,
            inputs,
            shapes,
            output,
        )
        self.steps = _needed(steps, {output})
        self.made = {name: step for step in self.steps for name in step.outputs}
        moving, affine = {*inputs}, {*inputs}
        for step in self.steps:
            if moving.intersection(_names(step.inputs)):
                moving.update(step.outputs)
                own = {x for x in step.inputs if x in moving and x not in affine}
                dtype = shapes[step.outputs[0]].dtype
                if not own and step.is_affine(affine, dtype):
                    affine.update(step.outputs)
        self.affine, self.moving = affine, moving
        self.predictors = self._predictors()

    def _predictors(self) -> tuple[int, ...]:
        """Names of the last values that are affine, and that not all follow from."""
        ends = {self.output} & self.affine
        for step in self.steps:
            if step.outputs[0] in self.moving and step.outputs[0] not in self.affine:
                ends |= self.affine.intersection(_names(step.inputs))
        found = dict.fromkeys(self._origin(name) for name in sorted(ends))
        for name in list(found):
            rest = found.keys() - {name}
            if self._follows(name, rest):
                del found[name]
        return tuple(found)

    def _moved_by(self, name: int) -> list[int]:
        """What is affine among the operands that a value is made of."""
        step = self.made.get(name)
        return [] if step is None else [x for x in step.inputs if x in self.affine]

    def _origin(self, name: int) -> int:
        """The value that one has each of its entries from, times known numbers."""
        while True:
            step, operands = self.made.get(name), self._moved_by(name)
            if step is None or len(operands) != 1 or step.kind in _MIXING:
                return name
            if step.kind not in _WIDER and self._size(operands[0]) != self._size(name):
                return name
            name = operands[0]

    def _size(self, name: int) -> int:
        return int(np.prod(self.shapes[name].shape))

    def _follows(self, name: int, others: Any) -> bool:
        """Whether a value can be computed from others and from what is known."""
        operands = self._moved_by(name)
        return bool(operands) and all(
            x in others or self._follows(x, others) for x in operands
        )

    @property
    def predictor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the predictors."""
        return tuple(self.shapes[name].shape for name in self.predictors)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        known = isinstance(self.output, _Known)
        return np.shape(self.output.value) if known else self.shapes[self.output].shape

    def predict(self, arguments: list[Array]) -> list[Array]:
        """The predictors, from the arguments."""
        given = dict(zip(self.inputs, arguments))
        return self._run(given, self.predictors)

    def finish(self, predictors: list[Array]) -> Array:
        """The result, from the predictors."""
        given = dict(zip(self.predictors, predictors))
        return self._run(given, (self.output,))[0]

    def _run(self, given: dict[int, Any], wanted: tuple[Any, ...]) -> list[Any]:
        """Compute what is wanted from what is given, and from nothing before it."""
        values = self.known | given
        for step in _needed(self.steps, {*wanted}, {*given}):
            values |= step(values)
        return [_value(x, values) for x in wanted]


def split_linear(function: Callable[..., Array], arguments: list[Array]) -> Split:
    """Split a function of arrays that has one array as its result.

    :param function: the function; it may use other arrays, which are known.
    :param arguments: arrays of the shapes of its arguments.
    """
    closed: ClosedJaxpr = jax.make_jaxpr(function)(*arguments)
    flat = _Flat()
    inputs = tuple(map(flat.name, closed.jaxpr.invars))
    flat.known.update(zip(map(flat.name, closed.jaxpr.constvars), closed.consts))
    flat.add(closed.jaxpr)
    (output,) = map(flat.read, closed.jaxpr.outvars)
    return Split(flat.steps, flat.known, inputs, flat.shapes, output)


class _Flat:
    """The operations of a function and of those that it calls, in one list."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.known: dict[int, Any] = {}
        self.shapes: dict[int, Any] = {}
        self.names: dict[Any, Any] = {}

    def name(self, variable: Any) -> int:
        """A new name of a variable."""
        found = len(self.shapes)
        self.names[variable], self.shapes[found] = found, variable.aval
        return found

    def read(self, atom: Any) -> Any:
        """What an operand is called, or the number that it is."""
        return _Known(atom.val) if isinstance(atom, Literal) else self.names[atom]

    def add(self, jaxpr: Jaxpr) -> None:
        """Add the operations of a function whose operands have names."""
        for eqn in jaxpr.eqns:
            inputs = tuple(map(self.read, eqn.invars))
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name in _INLINE and inner is not None:
                self._call(inner, inputs, eqn.outvars)
                continue
            outputs = tuple(map(self.name, eqn.outvars))
            self.steps.append(_Step(jaxpr, eqn, inputs, outputs))

    def _call(self, called: Any, inputs: tuple[Any, ...], outputs: Any) -> None:
        """Add those of a call. A function that is called again has new names."""
        jaxpr = called.jaxpr if isinstance(called, ClosedJaxpr) else called
        consts = called.consts if isinstance(called, ClosedJaxpr) else ()
        before = dict(self.names)
        self.known.update(zip(map(self.name, jaxpr.constvars), consts))
        self.names.update(zip(jaxpr.invars, inputs))
        self.add(jaxpr)
        found = list(map(self.read, jaxpr.outvars))
        self.names = before | dict(zip(outputs, found))


def _value(x: Any, values: dict[int, Any]) -> Any:
    return x.value if isinstance(x, _Known) else values[x]


def _names(inputs: tuple[Any, ...]) -> list[int]:
    return [x for x in inputs if not isinstance(x, _Known)]


def _needed(
    steps: list[_Step], wanted: set[Any], given: set[int] | None = None
) -> list[_Step]:
    """The steps that something depends on, other than through what is given."""
    given = given or set()
    needed, found = {x for x in wanted if not isinstance(x, _Known)} - given, []
    for step in reversed(steps):
        if needed.intersection(step.outputs):
            found.append(step)
            needed.update(set(_names(step.inputs)) - given)
    return found[::-1]
