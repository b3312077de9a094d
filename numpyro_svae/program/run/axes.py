# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The positions of sites as named plates."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.run.sites import Site

__all__ = ["Axes", "axes_of"]


class Axes(NamedTuple):
    """The positions of a site, as named plates.

    Positions that sites share without a plate have a name too: batch dimensions are
    counted from the right, as in a program, those that ``to_event`` added from the
    left. A dimension of size one that is no plate has none.

    :param plates: names of the plates, outermost first.
    :param sizes: of the plates.
    :param positions: shape of the positions.
    :param extra: how many trailing positions are event dimensions.
    """

    plates: tuple[str, ...]
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    extra: int

    def to_plates(self, value: Array, event_dim: int) -> Array:
        """Values by plates, from values that broadcast to the positions."""
        event = value.shape[value.ndim - event_dim :]
        value = jnp.broadcast_to(value, (*self.positions, *event))
        return jnp.reshape(value, (*self.sizes, *event))

    def share(self, total: Array, plates: Sequence[str] = ()) -> Array:
        """A total by some plates, in their order here, spread evenly over the others.

        :param total: ``(*plates)``.
        :param plates: some of the plates.
        :return: of the shape of the batch.
        """
        named = list(zip(self.plates, self.sizes))
        total = jnp.reshape(total, [n if name in plates else 1 for name, n in named])
        others = math.prod(n for name, n in named if name not in plates)
        value = self.to_positions(jnp.broadcast_to(total / others, self.sizes))
        return jnp.sum(value, tuple(range(value.ndim - self.extra, value.ndim)))

    def to_positions(self, value: Array) -> Array:
        """Values at the positions, from values ``(*sizes, *event)``."""
        event = value.shape[len(self.sizes) :]
        return jnp.reshape(value, (*self.positions, *event))


def axes_of(site: Site, extra: int | None = None) -> Axes:
    """The named positions of a site.

    :param site: the site.
    :param extra: how many event dimensions are positions, if not all that could be.
    """
    extra = site.extra if extra is None else extra
    batch = site.batch_shape
    positions = batch + tuple(site.outer.event_shape[:extra])
    frames = {frame.dim: frame.name for frame in site.frames}
    names: list[str | None] = []
    for dim, size in zip(range(-len(batch), 0), batch):
        names.append(frames.get(dim, None if size == 1 else f"dimension {dim}"))
    names += [f"event dimension {dim}" for dim in range(extra)]
    named = [(n, size) for n, size in zip(names, positions) if n is not None]
    plates, sizes = zip(*named) if named else ((), ())
    return Axes(tuple(plates), tuple(sizes), positions, extra)
