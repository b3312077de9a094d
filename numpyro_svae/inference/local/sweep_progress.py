# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How far each datum has got in sweeps, and how long its next step is."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

__all__ = ["Progress", "is_better"]

_FIRST_RATE = 0.5
_PATIENCE = 10  # sweeps that get a datum no further


class Progress(NamedTuple):
    """How data of a group get on.

    :param rate: of their steps.
    :param bound: when they last got on.
    :param left: what was left then.
    :param idle: sweeps since then.
    """

    rate: Array
    bound: Array
    left: Array
    idle: Array

    @classmethod
    def at(cls, bound: Array, left: Array) -> Progress:
        """At the start."""
        rate = jnp.full_like(bound, _FIRST_RATE)
        return cls(rate, bound, left, jnp.zeros(bound.shape, jnp.int32))

    def after(
        self, take: Array, bound: Array, left: Array, tolerance: float
    ) -> Progress:
        """After a sweep that was taken or not."""
        rate = jnp.where(take, jnp.minimum(1.0, 2.0 * self.rate), 0.5 * self.rate)
        on = (bound > self.bound + tolerance) | (left < 0.5 * self.left)
        bound, left = (
            jnp.where(on, new, old)
            for new, old in ((bound, self.bound), (left, self.left))
        )
        return Progress(rate, bound, left, jnp.where(on, 0, self.idle + 1))

    def remaining(self, left: Array) -> Array:
        """What is left, of data that can get further."""
        ended = (self.idle >= _PATIENCE) & jnp.isfinite(self.bound)
        return jnp.where(ended, jnp.minimum(left, 1.0), left)


def is_better(bound: Array, left: Array, before: Array, left_before: Array) -> Array:
    """Whether a bound has risen, or is the same as far as can be seen and closer.

    :param left: what is left to the goal; ``left_before`` and ``before`` likewise.
    """
    slack = _rounding(before)
    same = (jnp.abs(bound - before) <= slack) & (left <= left_before)
    return (bound > before + slack) | same


def _rounding(bound: Array) -> Array:
    size = 1.0 + jnp.abs(jnp.where(jnp.isfinite(bound), bound, 0.0))
    return 64 * jnp.finfo(bound.dtype).eps * size
