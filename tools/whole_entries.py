# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Compiled programs on disk that several processes share.

JAX writes an entry of its cache in place, so that another process may read half of it.
Once this is imported, an entry appears when it is whole. A kernel of a notebook runs
this file if ``PYTHONSTARTUP`` names it.
"""

import os
from pathlib import Path
from threading import get_ident

from jax._src.lru_cache import LRUCache

__all__: list[str] = []


def put(self: LRUCache, key: str, value: bytes) -> None:
    """Add an entry, unless there is one.

    :param key: the name of the file, without its ending.
    :param value: what the file holds.
    """
    path = Path(self.path, f"{key}-cache")
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}.{get_ident()}")
        part.write_bytes(value)
        part.replace(path)


LRUCache.put = put  # type: ignore[method-assign]
