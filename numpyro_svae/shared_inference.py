# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Inference that several runs of a guide have in common.

A bound that averages over the states of a label runs the guide once to find it, and
again with the states given. Nothing that is inferred depends on them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import numpyro

__all__ = ["SharedInference", "once"]

T = TypeVar("T")


class SharedInference:
    """Lets runs of the same guide infer once: those inside of ``with`` blocks of it.

    What a guide infers in one run is taken in the next where the same guide is called
    there, as the same one in order and with the very same arguments; those that are
    computed from a state, say, are others.
    """

    def __init__(self) -> None:
        self._found: list[tuple[list[Any], Any]] = []
        self._calls = 0

    def __enter__(self) -> None:
        self._calls = 0
        self._token = _shared.set(self)

    def __exit__(self, *_: object) -> None:
        _shared.reset(self._token)

    def once(self, what: list[Any], infer: Callable[[], T]) -> T:
        """See :func:`once`."""
        own, self._calls = self._calls, self._calls + 1
        if own == len(self._found):
            self._found.append((what, infer()))
            return self._found[own][1]
        known, found = self._found[own]
        if len(known) != len(what) or any(a is not b for a, b in zip(known, what)):
            return infer()
        numpyro.prng_key()
        return found


_shared: ContextVar[SharedInference | None] = ContextVar("shared", default=None)


def once(guide: object, given: Any, infer: Callable[[], T]) -> T:
    """What a guide infers, or has inferred in an earlier run that shares it.

    :param guide: the guide.
    :param given: its arguments.
    :param infer: infers, with one random key of the handlers around it. That of a
        later run is taken too, so that its samples have the keys of the first.
    """
    shared = _shared.get()
    what = [guide, *jax.tree.leaves(given)]
    return infer() if shared is None else shared.once(what, infer)
