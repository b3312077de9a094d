# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Between the public layout, batch first, and that of this package, lanes last."""

import math

from jax import Array
import jax.numpy as jnp

__all__ = ["events_from_lanes", "events_to_lanes", "from_lanes", "to_lanes"]


def to_lanes(x: Array, rank: int, batch: tuple[int, ...], time: bool = True) -> Array:
    """Move entries first and flatten the batch into one axis of lanes.

    :param x: shape ``(*b, [T], *entries)`` with ``rank`` entry axes, ``b`` broadcasting
        to ``batch``. What the whole batch shares stays shared: its lane axis has size
        one.
    :param batch: the batch shape of the whole computation.
    :param time: whether there is an axis of time.
    :return: shape ``(*entries, [T], lanes)``.
    """
    inner = rank + time
    own, rest = x.shape[: x.ndim - inner], x.shape[x.ndim - inner :]
    shared = math.prod(own) == 1
    lanes = () if shared else batch
    x = jnp.broadcast_to(x.reshape(rest) if shared else x, lanes + rest)
    x = x.reshape((1 if shared else math.prod(batch),) + rest)
    return jnp.moveaxis(
        x, (0,) + ((1,) if time else ()), (-1,) + ((-2,) if time else ())
    )


def from_lanes(x: Array, rank: int, batch: tuple[int, ...], time: bool = True) -> Array:
    """The inverse of :func:`to_lanes`, with shared lanes copied to the batch."""
    x = jnp.moveaxis(x, (-1,) + ((-2,) if time else ()), (0,) + ((1,) if time else ()))
    x = jnp.broadcast_to(x, (math.prod(batch),) + x.shape[1:])
    return x.reshape(batch + x.shape[1:])


def events_to_lanes(x: Array, batch: tuple[int, ...]) -> Array:
    """``(S, *batch, T, D)`` to ``(D, S, T, lanes)``."""
    x = x.reshape(x.shape[:1] + (math.prod(batch),) + x.shape[-2:])
    return jnp.transpose(x, (3, 0, 2, 1))


def events_from_lanes(x: Array, batch: tuple[int, ...]) -> Array:
    """The inverse of :func:`events_to_lanes`."""
    x = jnp.transpose(x, (1, 3, 2, 0))
    return x.reshape(x.shape[:1] + batch + x.shape[-2:])
