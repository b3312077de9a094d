# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Words to the user from within a compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, NamedTuple
import weakref

import jax
from jax import Array, lax
from jax.custom_batching import custom_vmap
import jax.numpy as jnp
import numpy as np

from numpyro_svae.host_calls import call_by_name, can_call

__all__ = ["Said", "notice"]

_TARGET = "numpyro_svae_notice"


class Said:
    """What has been said, so that it is not said again."""

    def __init__(self) -> None:
        self._all: set[Any] = set()

    def __contains__(self, what: Any) -> bool:
        return what in self._all

    def add(self, what: Any) -> None:
        self._all.add(what)


class _Speaker(NamedTuple):
    """Says what has happened.

    :param say: a function of what has been said and of a pytree of NumPy arrays.
    :param structure: of that pytree.
    :param said: a reference to what has been said; its owner may be gone.
    """

    say: Callable[[Said, Any], None]
    structure: Any
    said: weakref.ref[Said]

    def speak(self, leaves: list[np.ndarray]) -> None:
        said = self.said()
        values = jax.tree.unflatten(self.structure, leaves)
        self.say(Said() if said is None else said, values)


_speakers: dict[str, _Speaker] = {}


def _name_of(say: Callable, structure: Any, said: Said) -> str:
    """A name for a speaker, the same in each process that runs the same programs.

    It is in the compiled program. Of speakers that say the same, each has a number;
    that of one which has gone is free again.
    """
    bound = f"{say.args} " if isinstance(say, partial) else ""
    plain = say.func if isinstance(say, partial) else say
    text = f"{plain.__module__}.{plain.__qualname__} {bound}{structure}"
    name = next(n for i in count() if _is_free(n := f"{text} {i}", said))
    _speakers[name] = _Speaker(say, structure, weakref.ref(said))
    return name


def _is_free(name: str, said: Said) -> bool:
    """Whether a name is that of nobody, of one who has gone, or of this speaker."""
    known = _speakers.get(name)
    return known is None or known.said() is None or known.said() is said


def _hear(name: str, leaves: list[np.ndarray]) -> None:
    _speakers[name].speak(leaves)


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

    zero = jax.ShapeDtypeStruct((), jnp.float32)

    def call_back(values: Any) -> Array:
        return jax.pure_callback(tell, zero, values)

    def call(values: Any) -> Array:
        values = summary(values)
        if not can_call(_TARGET, _hear):
            return call_back(values)
        structure = jax.tree.structure(values)
        named = partial(call_by_name, _TARGET, _name_of(say, structure, said))
        return lax.platform_dependent(
            values,
            cpu=lambda given: named(jax.tree.leaves(given)),
            default=call_back,
        )

    @custom_vmap
    def speak(happened: Array, values: Any) -> Array:
        return lax.cond(happened, call, lambda _: jnp.zeros((), jnp.float32), values)

    @speak.def_vmap
    def _(size: int, batched: Any, happened: Array, values: Any) -> tuple[Array, bool]:
        each = jnp.broadcast_to(happened, (size,))
        first = jnp.argmax(each)
        one = jax.tree.map(lambda v, b: v[first] if b else v, values, batched[1])
        return speak(jnp.any(each), one), False

    values = lax.stop_gradient(values)
    if not isinstance(happened, jax.core.Tracer):
        if happened:
            tell(summary(values))
        return jnp.zeros((), jnp.float32)
    return lax.stop_gradient(speak(happened, values))
