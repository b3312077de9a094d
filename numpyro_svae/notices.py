# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Words to the user from within a compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.custom_batching import custom_vmap
import jax.numpy as jnp
import numpy as np

__all__ = ["notice"]


def notice(
    happened: Array,
    values: Any,
    say: Callable[[Any], None],
    summary: Callable[[Any], Any] = lambda values: values,
) -> Array:
    """Call a function on the host where something has happened, and cost nothing else.

    It works within ``grad``, ``jit``, ``scan`` and ``vmap``; of the members of a batch
    the first one that it has happened to speaks for all. A call is made each time that
    it happens: what is to be said once, the function must remember.

    It is no effect, so that programs are dispatched as fast as before. JAX does not keep
    a program with a function of the host in its compilation cache on disk.

    :param happened: whether, a boolean of shape ``()``.
    :param values: a pytree of arrays.
    :param say: a function of a summary of the values, as NumPy arrays.
    :param summary: makes small arrays of them, where something has happened.
    :return: zero. Add it to a result: what nothing depends on is not computed.
    """

    def tell(values: Any) -> np.ndarray:
        say(jax.tree.map(np.asarray, values))
        return np.zeros((), np.float32)

    zero = jax.ShapeDtypeStruct((), jnp.float32)

    @custom_vmap
    def speak(happened: Array, values: Any) -> Array:
        def call(values: Any) -> Array:
            return jax.pure_callback(tell, zero, summary(values))

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
