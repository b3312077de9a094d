# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Words to the user from within a compiled program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import jax
from jax import Array, lax
from jax.custom_batching import custom_vmap
import jax.numpy as jnp
import numpy as np

from numpyro_svae.host_calls import call_by_name, can_call

__all__ = ["Listeners", "Said", "notice", "told"]

_TARGET = "numpyro_svae_notice"


_NUMBERS = count(2**16)  # of those who are told; smaller ones are by text


class Said:
    """What has been said, so that it is not said again."""

    def __init__(self) -> None:
        self._all: set[Any] = set()
        self.number = next(_NUMBERS)

    def __contains__(self, what: Any) -> bool:
        return what in self._all

    def add(self, what: Any) -> None:
        self._all.add(what)


class Listeners:
    """Who is told what happens in a program, by numbers that it is called with.

    So programs that differ in nothing else are one.

    :param numbers: these numbers, traced, of shape ``(ROOM,)``.
    """

    ROOM = 4

    def __init__(self, numbers: Array) -> None:
        self._numbers = numbers
        self._all: list[Said] = []

    def number_of(self, said: Said) -> Array | None:
        """The number of one of them, if there is room."""
        if said not in self._all:
            self._all.append(said)
        place = self._all.index(said)
        return self._numbers[place] if place < self.ROOM else None

    def known(self) -> np.ndarray:
        """The numbers of those that were told of in the trace."""
        numbers = [said.number for said in self._all] + [0] * self.ROOM
        return np.asarray(numbers[: self.ROOM], np.uint32)


_listening: ContextVar[Listeners | None] = ContextVar("listening", default=None)


@contextmanager
def told(listeners: Listeners | None) -> Iterator[None]:
    """Within it, notices are for those that a program is called with, or as they are.

    :param listeners: of the program that is traced, or None.
    """
    before = _listening.set(listeners)
    try:
        yield
    finally:
        _listening.reset(before)


_SAYINGS: dict[str, tuple[Callable[[Said, Any], None], Any]] = {}
_TOLD: WeakValueDictionary[tuple[str, int], Said] = WeakValueDictionary()


def _text_of(say: Callable, structure: Any) -> str:
    """What is in a compiled program of what it says: the same in each process."""
    bound = f"{say.args} " if isinstance(say, partial) else ""
    plain = say.func if isinstance(say, partial) else say
    text = f"{plain.__module__}.{plain.__qualname__} {bound}{structure}"
    _SAYINGS[text] = say, structure
    return text


def _number_of(text: str, said: Said) -> Array | np.generic:
    """Who is told: a number among those who are told the same, or an argument.

    The former is in the program, and should be the same in each process that runs the
    same programs. That of one which has gone is free again.
    """
    listeners = _listening.get()  # of this thread
    argument = None if listeners is None else listeners.number_of(said)
    if argument is not None:
        _TOLD[text, said.number] = said
        return argument
    number = next(i for i in count() if _TOLD.get((text, i)) in (None, said))
    _TOLD[text, number] = said
    return np.uint32(number)


def _hear(text: str, arrays: list[np.ndarray]) -> None:
    number, *leaves = arrays
    say, structure = _SAYINGS[text]
    said = _TOLD.get((text, int(number)))  # which may be gone
    say(Said() if said is None else said, jax.tree.unflatten(structure, leaves))


def notice(
    happened: Array,
    values: Any,
    say: Callable[[Said, Any], None],
    said: Said,
    summary: Callable[[Any], Any] = lambda values: values,
) -> Array:
    """Call a function on the host where something has happened, and cost nothing else.

    It works within ``grad``, ``jit``, ``scan`` and ``vmap``; of the members of a batch
    the first one that it has happened to speaks for all. A call is made each time that
    it happens.

    It is no effect, so that programs are dispatched as fast as before. On a CPU the
    function is called by its name, so that JAX keeps the program in its cache on disk;
    elsewhere it is a callback of JAX, with which it does not.

    :param happened: whether, a boolean of shape ``()``.
    :param values: a pytree of arrays.
    :param say: a function of ``said`` and a summary of the values, as NumPy arrays. It
        is a function of a module, or a ``partial`` of one with positional arguments
        whose texts say all.
    :param said: what has been said; where something is to be said once, the function
        adds to it.
    :param summary: makes small arrays of the values, where something has happened.
    :return: zero. Add it to a result: what nothing depends on is not computed.
    """

    def tell(values: Any) -> np.ndarray:
        say(said, jax.tree.map(np.asarray, values))
        return np.zeros((), np.float32)

    if not isinstance(happened, jax.core.Tracer):
        if happened:
            tell(summary(values))
        return jnp.zeros((), jnp.float32)
    by_name = can_call(_TARGET, _hear)
    text = _text_of(say, jax.tree.structure(jax.eval_shape(summary, values)))
    zero = jax.ShapeDtypeStruct((), jnp.float32)

    def call(number: Array, values: Any) -> Array:
        values = summary(values)
        if not by_name:
            return jax.pure_callback(tell, zero, values)
        return lax.platform_dependent(
            number,
            *jax.tree.leaves(values),
            cpu=lambda *arrays: call_by_name(_TARGET, text, list(arrays)),
            default=lambda *_: jax.pure_callback(tell, zero, values),
        )

    @custom_vmap
    def speak(happened: Array, number: Array, values: Any) -> Array:
        silent = jnp.zeros((), jnp.float32)
        return lax.cond(happened, call, lambda *_: silent, number, values)

    @speak.def_vmap
    def _(
        size: int, batched: Any, happened: Array, number: Array, values: Any
    ) -> tuple[Array, bool]:
        each = jnp.broadcast_to(happened, (size,))
        first = jnp.argmax(each)
        one = jax.tree.map(lambda v, b: v[first] if b else v, values, batched[2])
        return speak(jnp.any(each), number, one), False

    return lax.stop_gradient(
        speak(happened, _number_of(text, said), lax.stop_gradient(values))
    )
