# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Observed values as numbers that can be computed with, and as many as are drawn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.run.parts import is_part
from numpyro_svae.program.run.wrappers import Layer

__all__ = ["as_numbers", "as_wide_as_data"]


def as_wide_as_data(message: dict) -> dict:
    """The message of a site, with a distribution that draws as much as there are data.

    NumPyro's densities broadcast: a number that is one of many data, in no plate, has
    the sum of their densities.

    :param message: of a sample site.
    :raises ValueError: naming the site, if its data have one entry for a plate and
        others where there is none, or those of an event are not those that are drawn,
        or a mask makes more of them than there are.
    """
    fn, value = message["fn"], message["value"]
    found = getattr(value, "shape", None)
    if not message["is_observed"] or found is None or 0 in found:
        return message
    drawn, events = fn.shape(), len(fn.event_shape)
    try:
        whole = np.broadcast_shapes(drawn, found)
    except ValueError:
        return message  # which is refused where shapes are looked at
    frames = message["cond_indep_stack"]
    if not is_part(message["name"]):  # its rest is looked at as a latent site
        _check_mask(message["name"], fn, found, {frame.dim for frame in frames})
    if whole == drawn:
        return message
    batch, event = whole[: len(whole) - events], whole[len(whole) - events :]
    if event != tuple(fn.event_shape):
        raise ValueError(
            f"Site '{message['name']}': found data of shape {found}, whose last "
            f"dimensions are not the event {tuple(fn.event_shape)} of its "
            f"distribution. Accepted: data of shape {drawn}, or a distribution with "
            f"parameters of shape {event}, before .to_event({events})."
        )
    for frame in frames:
        axis = frame.dim - events
        if frame.size > 1 and (len(found) < -axis or found[axis] == 1):
            raise ValueError(
                f"Site '{message['name']}': found data of shape {found}, which have no "
                f"axis for plate '{frame.name}' of {frame.size}, axis {axis}. "
                f"Accepted: data of the shape that is drawn, {drawn}, as "
                "y.squeeze(-1) of a column of numbers."
            )
    return message | {"fn": fn.expand(batch)}


def _check_mask(name: str, fn: Any, found: tuple[int, ...], plates: set[int]) -> None:
    """Axes that only a mask has would count data several times.

    :param name: of the site.
    :param fn: its distribution.
    :param found: the shape of its data.
    :param plates: the dimensions of the plates around it.
    """
    inner, layer, masked = fn, Layer.of(fn), False
    while layer is not None:
        masked = masked or layer.mask is not None
        inner, layer = layer.inner, Layer.of(layer.inner)
    if not masked:
        return
    added = len(fn.event_shape) - len(inner.event_shape)
    shape, events = fn.batch_shape, len(fn.event_shape)
    own = (1,) * len(shape) + inner.batch_shape[: len(inner.batch_shape) - added]
    data = (1,) * len(shape) + found[: max(len(found) - events, 0)]
    copies = {d for d in range(-len(shape), 0) if shape[d] > max(own[d], data[d])}
    if copies - plates:
        raise ValueError(
            f"Site '{name}': found a mask with which data of shape {found} count as "
            f"data of shape {shape + tuple(fn.event_shape)}. Accepted: a mask of the "
            "shape of the plates; of steps or entries of an event, fn.mask(seen) with "
            "seen of the shape of fn, and .to_event(...) after it."
        )


def as_numbers(name: str, value: Any, states: bool) -> Any:
    """An observed value as an array whose numbers are wide enough to add up.

    Data are often stored in few bits, as pixels and counts are. The log factorial of a
    hundred in float16 is off by a tenth, and in bfloat16 by one; 300 trials are 44 in
    int8.

    :param name: of the site.
    :param value: its value.
    :param states: whether it is of states, or of paths of them.
    :raises ValueError: naming the site, and what its value is of.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"Site '{name}': found a masked array of NumPy. Accepted: an array, as "
            "y.filled(0), and the mask on the distribution, as "
            "fn.mask(~np.ma.getmaskarray(y))."
        )
    if isinstance(value, list | tuple) or _is_table(value):
        raise ValueError(
            f"Site '{name}': found data in a {type(value).__name__}. Accepted: an "
            "array, as np.asarray(y)."
        )
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return value
    if not getattr(dtype, "isnative", True):
        raise ValueError(
            f"Site '{name}': found data of dtype {dtype.str}, whose bytes are in an "
            "order that JAX does not take. Accepted: "
            "y.astype(y.dtype.newbyteorder('='))."
        )
    if jnp.issubdtype(dtype, jnp.floating) and not states:
        return value.astype(jnp.float32) if jnp.finfo(dtype).bits < 32 else value
    if jnp.issubdtype(dtype, jnp.integer):
        return value.astype(jnp.int32) if jnp.iinfo(dtype).bits < 32 else value
    if states:
        raise ValueError(
            f"Site '{name}': found states of dtype {dtype}. Accepted: integers, as "
            "z.astype(int); where they are masked, any integer."
        )
    if getattr(dtype, "kind", "f") in "OSUMmcV":
        raise ValueError(
            f"Site '{name}': found data of dtype {dtype}. Accepted: real numbers, as "
            "np.asarray(y, float); of words, their labels, as "
            "np.unique(y, return_inverse=True)[1]."
        )
    return value


def _is_table(value: Any) -> bool:
    """Whether a value is an array of another library, as of pandas, xarray or torch."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return False
    return hasattr(value, "__array__") and not hasattr(value, "__jax_array__")
