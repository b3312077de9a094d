# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Numbers in the plates of their data, as one batch of all of their entries.

``m`` of shape (R, 1) and ``b`` of shape (C,), in plates of rows and of columns, are at
each datum what ``m[i]`` and ``b[j]`` are, of one plate of R and one of C members. They
are shown to the reader as these: the program picks members by broadcasting.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.transforms import ReshapeTransform
from numpyro.primitives import CondIndepStackFrame

from numpyro_svae.program.run.moved_gaussians import Moved
from numpyro_svae.program.run.wrappers import peel

__all__ = ["Grid", "is_of_numbers"]

_CLASSES = (
    dist.Normal,
    dist.Gamma,
    dist.InverseGamma,
    dist.HalfNormal,
    dist.HalfCauchy,
    dist.LogNormal,
    dist.Exponential,
)


def is_of_numbers(fn: Any) -> bool:
    """Whether a distribution is one of independent numbers whose parameters say all."""
    return type(peel(fn)[0]) in _CLASSES and not fn.event_shape


class Grid(NamedTuple):
    """The shape that a site of numbers has in the program.

    :param shape: of its batch.
    :param frames: the plates around it.
    """

    shape: tuple[int, ...]
    frames: tuple

    @property
    def size(self) -> int:
        """How many entries there are."""
        return math.prod(self.shape)

    def given(self, value: Any) -> Any:
        """A value as the program has it, from that of all entries in one row."""
        return jnp.reshape(value, self.shape)

    def message(self, message: dict) -> dict:
        """The message of the site with one plate of all entries, which is no other's.

        Sites of the same plates have the same one.

        :raises ValueError: naming the site, if its plates have other sizes than they
            had when the program was read.
        """
        found = message["fn"].batch_shape
        if found != self.shape:
            raise ValueError(
                f"Site '{message['name']}': found a batch of shape {found}, and the "
                f"guide was set up with one of shape {self.shape}. Accepted: plates of "
                "the sizes that they had then; for others, a guide of their own."
            )
        base: Any = peel(message["fn"])[0]
        given = {n: self._in_row(getattr(base, n)) for n in base.arg_constraints}
        fn = type(base)(**given, validate_args=False).expand((self.size,))
        name = "entries of " + " and ".join(f"'{frame.name}'" for frame in self.frames)
        frame = CondIndepStackFrame(name, -1, self.size)
        value = message["value"]
        value = value if value is None else jnp.reshape(value, (self.size,))
        return {**message, "fn": fn, "value": value, "cond_indep_stack": [frame]}

    def _in_row(self, value: Any) -> Array:
        """A parameter of each entry, or of all of them."""
        if jnp.size(value) == 1:
            return jnp.reshape(value, ())
        return jnp.broadcast_to(value, self.shape).reshape(-1)

    def point(self, fn: dist.Distribution, value: Array) -> dist.Delta:
        """A draw of all entries where the program has it, with its log density.

        :param fn: the posterior of a batch of numbers, or of one vector of them.
        :param value: a draw from it.
        """
        return self.spread(value, fn.log_prob(value))

    def spread(self, value: Array, density: Array) -> dist.Delta:
        """A draw where the program has it, from its density or that of each entry."""
        if density.size == self.size:
            density = density.reshape(self.shape)
        else:
            density = jnp.broadcast_to(jnp.sum(density) / self.size, self.shape)
        return dist.Delta(value.reshape(self.shape), density)

    def posterior(self, fn: Any) -> dist.Distribution:
        """A posterior of all entries in one row as one of the shape of the program."""
        base = peel(fn)[0]
        if type(base) is dist.Normal:
            loc, scale = base.loc.reshape(self.shape), base.scale.reshape(self.shape)
            normal = dist.Normal(loc, scale)
            return normal.to_event(len(self.shape)) if fn.event_shape else normal
        row = fn.to_event(len(fn.batch_shape))
        return Moved(row, ReshapeTransform(self.shape, row.event_shape))

    def start(self, given: Any) -> Any:
        """A posterior of the shape of the program, as that of all entries in a row."""
        if isinstance(given, Moved):
            return peel(given.base_dist)[0]
        base = peel(given)[0] if isinstance(given, dist.Distribution) else given
        if type(base) is dist.Normal and base.batch_shape == self.shape:
            return dist.Normal(base.loc.reshape(-1), base.scale.reshape(-1))
        return given
