# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Random keys in the place of something else, and something else in theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["check_key", "keys_explained"]


def check_key(rng_key: Any, call: str) -> None:
    """What is given as a random key must be one.

    :param rng_key: what is given.
    :param call: how to call the function.
    :raises TypeError: if it is none.
    """
    if not _is_typed(rng_key) and not _has_type(rng_key, jnp.unsignedinteger):
        found = type(rng_key).__name__
        if isinstance(rng_key, jax.Array | np.ndarray):
            found = f"an array of {rng_key.dtype} of shape {rng_key.shape}"
        raise TypeError(
            f"rng_key: found {found}. Accepted: a random key, such as "
            f"jax.random.key(0), in its place: {call}."
        )


@contextmanager
def keys_explained(model: Callable, args: tuple) -> Iterator[None]:
    """A context that says if a program fails where it is given a random key.

    :param model: the program.
    :param args: its positional arguments.
    :raises TypeError: in place of the error of the program.
    """
    try:
        yield
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        places = [i for i, value in enumerate(args) if _is_key(value)]
        if not places:
            raise
        names = dict(enumerate(inspect.signature(model).parameters))
        found = ", ".join(repr(names.get(i, i)) for i in places)
        raise TypeError(
            f"Argument {found} of the model: found a random key, and the model ends in "
            f"{type(error).__name__}: {error}. Accepted after the parameters: the "
            "arguments of the model alone. `report` and `to_arviz` take rng_key=..., "
            "`forecast`, `log_score`, `impute` and `log_likelihood` a key before these "
            "arguments, and other functions none."
        ) from error


def _is_key(value: Any) -> bool:
    raw = _has_type(value, np.uint32) and np.shape(value) in ((2,), (4,))
    return _is_typed(value) or raw


def _is_typed(value: Any) -> bool:
    return _has_type(value, jax.dtypes.prng_key)


def _has_type(value: Any, kind: Any) -> bool:
    known = isinstance(value, jax.Array | np.ndarray)
    return known and jax.dtypes.issubdtype(value.dtype, kind)
