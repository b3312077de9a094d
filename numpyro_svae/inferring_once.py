# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Inference that several runs of a guide have in common.

A bound that averages over the states of a label runs the guide once to find it, and
again with the states given. Nothing that is inferred depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpyro

__all__ = ["inferring_once", "once"]

T = TypeVar("T")

_found: ContextVar[dict[int, Any] | None] = ContextVar("found", default=None)


@contextmanager
def inferring_once() -> Iterator[None]:
    """Let each guide infer once, however often it is run with the same arguments."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def once(guide: object, infer: Callable[[], T]) -> T:
    """What a guide infers, or has inferred already under :func:`inferring_once`.

    :param guide: the guide.
    :param infer: infers, with one random key of the handlers around it. That of a
        later run is taken too, so that its samples have the keys of the first.
    """
    found = _found.get()
    if found is None:
        return infer()
    if id(guide) in found:
        numpyro.prng_key()
    else:
        found[id(guide)] = infer()
    return found[id(guide)]
