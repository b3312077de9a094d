# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How many programs XLA compiles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

__all__ = ["compilations"]

_compiled = [0]


def _count(event: str, *_: Any, **__: Any) -> None:
    _compiled[0] += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


@contextmanager
def compilations() -> Iterator[Callable[[], int]]:
    """Count programs that are compiled inside."""
    before = _compiled[0]
    yield lambda: _compiled[0] - before
