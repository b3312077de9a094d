# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Distributions of steps that are not given by their parameters alone."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpyro.distributions as dist

__all__ = ["Stepwise", "of_one_step"]


class Stepwise(dist.Distribution):
    """One distribution for each step, side by side: mixtures, transformed ones.

    Each is asked by itself, as its arrays may have less axes than its batch.

    :param each: the distributions, whose arrays have an axis of steps in front.
    :param shape: of the batch, with the steps at ``axis``.
    :param axis: of the steps.
    """

    arg_constraints: dict = {}
    pytree_data_fields = ("each",)
    pytree_aux_fields = ("axis",)

    def __init__(self, each: Any, shape: tuple[int, ...], axis: int) -> None:
        self.each, self.axis = each, axis
        super().__init__(shape, each.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The support of the steps."""
        return self.each.support

    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of each step, ``(..., *batch_shape)``.

        :param value: values ``(..., *batch_shape, *event_shape)``.
        """
        value = jnp.asarray(value)
        shape = self.batch_shape + self.event_shape
        value = jnp.broadcast_to(value, jnp.broadcast_shapes(value.shape, shape))
        axis = value.ndim - len(shape) + self.axis
        batch = value.shape[: value.ndim - self.event_dim]
        rest = batch[:axis] + batch[axis + 1 :]

        def one(fn: Any, value: Array) -> Array:
            return jnp.broadcast_to(fn.log_prob(value), rest)

        return jax.vmap(one, (0, axis), axis)(self.each, value)


def of_one_step(fn: Any) -> Any:
    """The distribution itself, or that of a step, of which the class tells what it is.

    :param fn: a distribution without what wraps it.
    """
    return fn.each if isinstance(fn, Stepwise) else fn
