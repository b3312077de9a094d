# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Distributions of the steps of a scan, as one distribution with time in its event."""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, NamedTuple

from jax import Array
from jax.nn import log_softmax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.blocks.discrete_chain import safe_log
from numpyro_svae.program.run.arrays import numpy_of
from numpyro_svae.program.run.classes import spelling_of
from numpyro_svae.program.run.stepwise import Stepwise
from numpyro_svae.program.run.wrappers import peel

__all__ = ["Steps", "TimePlate", "log_probs_of", "with_time_in_event"]

Arrays = dict[str, Array]


@dataclass(frozen=True)
class Steps:
    """What the distributions of a site have in common at all steps.

    :param kind: the class of the underlying distribution; None for one that is not
        given by its parameters alone, of which each step is kept.
    :param rank: of the batch.
    :param extra: how many dimensions ``to_event`` has added.
    """

    kind: type | None
    rank: int
    extra: int

    @classmethod
    def of(cls, fn: Any) -> Steps:
        """Look at the distribution of one step."""
        base, _, extra = peel(fn)
        kind = type(base) if _is_given_by_parameters(base) else None
        return cls(kind, len(fn.batch_shape), extra)

    @property
    def scalar(self) -> bool:
        """Whether it is a Gaussian number, to be shown as a vector of one entry."""
        return self.kind is dist.Normal and self.extra == 0

    def read(self, fn: Any) -> dict[str, Any]:
        """The parameters of a step, all with the full batch; its mask among them.

        Of a step that is not given by these, itself, and zeros of the full batch.
        """
        return _whole(fn) if self.kind is None else _parameters(fn)

    def gaussian(self, fn: Any) -> tuple[Array, Array]:
        """Location and covariance of a Gaussian step."""
        found = _parameters(fn)
        if self.kind is dist.MultivariateNormal:
            tril = found["scale_tril"]
            return found["loc"], tril @ jnp.swapaxes(tril, -1, -2)
        variance = found["scale"] ** 2
        eye = jnp.eye(variance.shape[-1], dtype=variance.dtype)
        return found["loc"], variance[..., None] * eye

    def show(
        self, arrays: dict[str, Any], padded: bool, shape: tuple[int, ...] = ()
    ) -> dist.Distribution:
        """The distribution of all steps.

        :param arrays: what was read of the steps, time leading.
        :param padded: whether the first of them does not count.
        :param shape: of the batch, time and what ``to_event`` has added, where not all
            arrays have the full one.
        """
        moved = {n: self._move(v) for n, v in arrays.items() if n != "each"}
        mask: Any = moved.pop("mask", None)
        if padded:
            positions = next(iter(moved.values())).shape[: self.rank + 1]
            counts = np.arange(positions[-1]) > 0  # known even under jit
            counts = np.reshape(counts, counts.shape + (1,) * self.extra)
            mask = counts if mask is None else mask & counts
        if self.scalar:
            moved = {name: value[..., None] for name, value in moved.items()}
            mask = None if mask is None else mask[..., None]
        if self.kind is None:
            fn = Stepwise(arrays["each"], moved["zeros"].shape, self.rank)
        else:
            fn = self.kind(**moved, validate_args=False)
        if shape:
            fn = fn.expand((*shape, 1) if self.scalar else shape)
        if mask is not None:
            fn = fn.mask(numpy_of(mask).broadcast_to(mask, fn.batch_shape))
        return fn.to_event(self.extra + 1 + self.scalar)

    def show_value(self, value: Array) -> Array:
        """Values of all steps, in the places of :meth:`show`."""
        moved = self._move(value)
        return moved[..., None] if self.scalar else moved

    def _move(self, array: Array) -> Array:
        return jnp.moveaxis(array, 0, self.rank)


class TimePlate(NamedTuple):
    """A plate over the steps of a chain.

    :param dim: its dimension, from the right.
    :param left: whether a dimension of size one is left behind, so that plates outside
        of it keep theirs.
    """

    dim: int
    left: bool


def with_time_in_event(message: dict, plate: TimePlate) -> dict:
    """The message of an observed site with a plate over time, as ``to_event`` has it.

    :param message: the message.
    :param plate: the plate.
    """
    fn, rank, (dim, left) = message["fn"], len(message["fn"].batch_shape), plate
    steps, axis = Steps.of(fn), rank + dim

    def leading(array: Array) -> Array:
        array = jnp.moveaxis(array, axis, 0)
        return jnp.expand_dims(array, axis + 1) if left else array

    steps = replace(steps, rank=rank if left else rank - 1)
    parts = {name: leading(value) for name, value in _parameters(fn, False).items()}
    value = leading(jnp.broadcast_to(message["value"], fn.shape()))
    shape = jnp.moveaxis(value, 0, steps.rank).shape[: steps.rank + 1 + steps.extra]
    frames = [
        f if left or f.dim > dim else f._replace(dim=f.dim + 1)
        for f in message["cond_indep_stack"]
        if f.dim != dim
    ]
    return {
        **message,
        "fn": steps.show(parts, padded=False, shape=shape),
        "value": steps.show_value(value),
        "cond_indep_stack": frames,
    }


def log_probs_of(fn: Any) -> Array:
    """Normalised log probabilities of a categorical site, ``(*batch, K)``.

    Those of logits are right where the probabilities are too small for a number.
    """
    base, _, extra = peel(fn)
    if isinstance(base, dist.CategoricalLogits):
        logs = log_softmax(base.logits, -1)
    else:
        logs = safe_log(base.probs)
    batch = tuple(fn.batch_shape) + tuple(fn.event_shape[:extra])
    return jnp.broadcast_to(logs, (*batch, logs.shape[-1]))


def _is_given_by_parameters(base: Any) -> bool:
    """Whether a distribution without wrappers is made of its parameters alone."""
    if spelling_of(base) == "vector":
        return True
    known, own = set(base.arg_constraints), vars(base)
    if {n for n in base.gather_pytree_data_fields() if n in own} <= known:
        return True
    written = {*signature(type(base)).parameters} - {"validate_args"}
    return bool(written) and written <= known & {*own}


def _whole(fn: Any) -> dict[str, Any]:
    """A distribution without wrappers, zeros of its full batch, and its mask."""
    base, mask, extra = peel(fn)
    batch = tuple(fn.batch_shape) + tuple(fn.event_shape[:extra])
    found = {"each": base, "zeros": jnp.zeros(batch)}
    return found if mask is None else found | {"mask": jnp.broadcast_to(mask, batch)}


def _parameters(fn: Any, full: bool = True) -> Arrays:
    """The parameters of a distribution, and its mask.

    :param fn: the distribution.
    :param full: whether they have the full batch, not ones where they are shared.
    """
    base, mask, extra = peel(fn)
    batch = tuple(fn.batch_shape) + tuple(fn.event_shape[:extra])

    def spread(value: Any, event_dim: int) -> Array:
        value = jnp.asarray(value)
        own = value.ndim - event_dim
        shared = (1,) * (len(batch) - own) + value.shape[:own]
        return jnp.broadcast_to(value, (batch if full else shared) + value.shape[own:])

    if spelling_of(base) == "vector":
        found = {"loc": spread(base.loc, 1), "scale_tril": spread(base.scale_tril, 2)}
    else:
        present = {n: c for n, c in base.arg_constraints.items() if n in vars(base)}
        found = {n: spread(getattr(base, n), c.event_dim) for n, c in present.items()}
    if mask is not None:
        found["mask"] = spread(mask, 0)
    return found
