# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs that run a few times: compiled quickly, and once for all of the same text.

Guides of one model read it to the same programs, which :func:`jax.jit` would compile
for each of them: it knows a program by the function that it was traced from. Here it is
known by the text that it is lowered to, as in the cache that JAX keeps on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial, wraps
from hashlib import sha256
import os
from threading import Lock
from typing import Any
from weakref import finalize

import jax
from jax import Array
from jax.core import eval_context
from jax.extend.core import ClosedJaxpr, get_opaque_trace_state
import numpy as np

from numpyro_svae.notices import Listeners, told
from numpyro_svae.tracing import needs_values

__all__ = ["Leaf", "Recent", "quick_jit", "shared_jit"]

_LEVEL = "xla_backend_optimization_level"


class Recent(dict):
    """What was used last, by key.

    :param most: how many are kept.
    """

    def __init__(self, most: int = 64) -> None:
        super().__init__()
        self.most = most

    def get_or(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under a key, or else what is made now."""
        found = self.pop(key, None)  # which another thread may have taken
        found = make() if found is None else found
        self[key] = found  # in the order of their last use
        for old in list(self)[: -self.most]:
            self.pop(old, None)
        return found

    def run(self, key: Hashable, function: Callable[..., Any], *given: Any) -> Any:
        """A function as one program, which is kept, if no values have to be known."""
        program = self.get_or(key, lambda: quick_jit(function))
        try:
            return program(*given)
        except TypeError as error:
            if not needs_values(error):
                raise
            return function(*given)


_EXECUTABLES = Recent()
_NOTHING = jax.jit(lambda: 0)
_NOBODY = np.zeros(Listeners.ROOM, np.uint32)


def quick_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """:func:`shared_jit` for programs that run a few times.

    At its highest level of optimisation, XLA for CPUs makes up to fifteen times as much
    machine code of a loop that generates random numbers: such a program takes twice as
    long to compile and no less to run, and others take a sixth longer. The level is
    that below, if the user has chosen none and the program is not a part of another.

    :param function: of pytrees. Leaves that are no arrays are static.
    """
    return shared_jit(function, 2)


def shared_jit(
    function: Callable[..., Any], level: int | None = None
) -> Callable[..., Any]:
    """:func:`jax.jit`, where what has the text of another program is that program.

    A call takes up to a millisecond to know that.

    :param function: of pytrees. Leaves that are no arrays are static.
    :param level: at which XLA for CPUs optimises, if that is not the highest.
    """
    programs = Recent()

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [leaf for leaf in leaves if _is_array(leaf)]
        known = [None if _is_array(leaf) else leaf for leaf in leaves]
        key = tree, tuple(map(Leaf, leaves))
        make = partial(_Program, function, level, tree, known)
        return programs.get_or(key, make)(arrays)

    return call


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, Array | np.ndarray)


class Leaf:
    """What tells leaves of arguments apart: an array has its shape, if at all.

    :param leaf: the leaf.
    :param shapes: whether arrays of other shapes or types are others.
    """

    def __init__(self, leaf: Any, shapes: bool = False) -> None:
        self.leaf = None if _is_array(leaf) else leaf  # it lives as long as this
        if _is_array(leaf):
            self.value: Hashable = (leaf.shape, leaf.dtype) if shapes else None
        elif isinstance(leaf, Hashable):
            self.value = type(leaf), leaf
        else:
            self.value = id(leaf)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


class _Program:
    """A function of arrays, in the place of the leaves of its arguments that are.

    :param function: the function.
    :param level: at which XLA optimises.
    :param tree: the structure of its arguments.
    :param known: the leaves that are none; None for an array.
    """

    def __init__(
        self, function: Callable[..., Any], level: int | None, tree: Any, known: list
    ) -> None:
        self.last: tuple | None = None
        self.lock = Lock()

        def whole(arrays: list[Array]) -> Any:
            rest = iter(arrays)
            leaves = [next(rest) if leaf is None else leaf for leaf in known]
            args, kwargs = tree.unflatten(leaves)
            return function(*args, **kwargs)

        def part(arrays: list[Array]) -> Any:
            with told(None):
                return whole(arrays)

        def flat(numbers: Array, *arrays: Array) -> list[Array]:
            listeners = Listeners(numbers)
            with told(listeners):
                leaves, out = jax.tree.flatten(whole(list(arrays)))
            self.last = listeners.known(), out
            return leaves

        name = getattr(function, "__name__", "program")
        self.level, part.__name__, flat.__name__ = level, name, name
        self.part = jax.jit(part)
        # What is not used would be left out of the text, and of what it is called with.
        self.alone = jax.jit(flat, keep_unused=True)
        self.traced: dict[ClosedJaxpr, tuple] = {}  # who is told, and of what structure
        self.found: dict[tuple, Hashable] = {}  # what tells it from others

    def __call__(self, arrays: list[Array]) -> Any:
        if not _is_alone():
            return self.part(arrays)
        with self.lock:  # what a trace leaves is of one thread
            traced = self.alone.trace(_NOBODY, *arrays)
            if self.last is not None:  # else it was traced before
                self.traced[traced.jaxpr], self.last = self.last, None
        numbers, tree = self.traced[traced.jaxpr]
        own = traced.jaxpr, tuple(getattr(array, "sharding", None) for array in arrays)
        lowered, options = None, _options(self.level)
        if own not in self.found:
            lowered = traced.lower()
            self.found[own] = _identity(lowered.as_text(), *own)
        key = self.found[own], *options.items()

        def compiled() -> Any:
            return (lowered or traced.lower()).compile(options)

        return tree.unflatten(_executables().get_or(key, compiled)(numbers, *arrays))


def _executables() -> Recent:
    """What is compiled, until :func:`jax.clear_caches` is called.

    That also ends what JAX keeps of a function that nothing else holds.
    """
    if not _EXECUTABLES:
        finalize(_NOTHING.trace().jaxpr, _EXECUTABLES.clear)
    return _EXECUTABLES


def _is_alone() -> bool:
    """Whether nothing is traced around it, and no values are looked for."""
    config: Any = jax.config
    looked_for = config.jax_debug_nans, config.jax_debug_infs, config.jax_disable_jit
    here = get_opaque_trace_state(convention="nnx")
    with eval_context():
        return not any(looked_for) and here == get_opaque_trace_state(convention="nnx")


def _options(level: int | None) -> dict[str, Any]:
    """Options of the compiler, if there are none yet."""
    chosen = level is None or _LEVEL in os.environ.get("XLA_FLAGS", "")
    return {} if chosen or jax.default_backend() != "cpu" else {_LEVEL: level}


def _identity(text: str, jaxpr: ClosedJaxpr, places: tuple) -> Hashable:
    """What tells a program from others: its text, its types, and where it runs.

    One that calls Python, or has constants beside its arguments, is like no other.
    """
    entry = next(line for line in text.splitlines() if "@main(" in line)
    if "callback" in text or f"%arg{len(places) + 1}:" in entry:
        return jaxpr
    config: Any = jax.config
    types = tuple(jaxpr.in_avals), tuple(jaxpr.out_avals)  # of keys, and weak ones
    where = places, config.jax_default_device
    return sha256(text.encode()).digest(), types, where
