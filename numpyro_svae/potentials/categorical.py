# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Log potentials over the states of a discrete site."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["CategoricalPotential"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class CategoricalPotential:
    r"""Log potentials :math:`\psi(z)` over K states, one for each position of a batch.

    A potential multiplies a prior probability by :math:`\exp\psi(z)`; it need not be
    normalised, and the zero potential says nothing about :math:`z`. Minus infinity
    rules a state out. A sum of potentials is a potential.

    :param logits: :math:`\psi`, shape ``(..., K)``.
    """

    logits: Array

    @classmethod
    def from_probs(cls, probs: ArrayLike) -> CategoricalPotential:
        """The logarithm of probabilities ``(..., K)``, or of any weights.

        :param probs: zero or positive.
        """
        probs = jnp.asarray(probs, float)
        possible = probs > 0
        log = jnp.log(jnp.where(possible, probs, 1.0))
        return cls(jnp.where(possible, log, -jnp.inf))

    @classmethod
    def from_labels(
        cls, labels: ArrayLike, num_states: int, mask: ArrayLike | None = None
    ) -> CategoricalPotential:
        """Rules out all states but the label; says nothing where there is none.

        :param labels: whole numbers below ``num_states``, shape ``(...)``.
        :param num_states: K.
        :param mask: where the label is known; everywhere by default. What is stored
            elsewhere is not used.
        :raises ValueError: if labels are not whole numbers.
        """
        labels = jnp.asarray(labels)
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                f"labels: found {labels.dtype}; accepted are whole numbers below "
                f"{num_states}, with `mask` for those that are missing."
            )
        own = labels[..., None] == jnp.arange(num_states)
        potential = cls(jnp.where(own, 0.0, -jnp.inf))
        return potential if mask is None else potential.mask(mask)

    @property
    def num_states(self) -> int:
        """Number ``K`` of states."""
        return jnp.shape(self.logits)[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the positions."""
        return jnp.shape(self.logits)[:-1]

    def mask(self, mask: ArrayLike) -> CategoricalPotential:
        """The zero potential wherever ``mask`` is false, whatever is stored there.

        :param mask: booleans that broadcast with ``batch_shape``.
        :raises ValueError: if they do not.
        """
        mask = jnp.asarray(mask, bool)
        try:
            jnp.broadcast_shapes(mask.shape, self.batch_shape)
        except ValueError:
            raise ValueError(
                f"mask: found shape {mask.shape}; accepted are shapes that broadcast "
                f"with the batch shape {self.batch_shape} of the potential."
            ) from None
        return CategoricalPotential(jnp.where(mask[..., None], self.logits, 0.0))

    def __add__(self, other: CategoricalPotential) -> CategoricalPotential:
        """The sum of two potentials over the same states."""
        if not isinstance(other, CategoricalPotential):
            return NotImplemented
        if self.num_states != other.num_states:
            raise ValueError(
                f"other: found a potential over {other.num_states} states; accepted "
                f"are potentials over {self.num_states}, like the one it is added to."
            )
        return CategoricalPotential(self.logits + other.logits)

    def __call__(self, states: ArrayLike) -> Array:
        """The value at states ``(...)``."""
        states = jnp.asarray(states)
        batch = jnp.broadcast_shapes(states.shape, self.batch_shape)
        logits = jnp.broadcast_to(self.logits, (*batch, self.num_states))
        index = jnp.broadcast_to(states, batch)[..., None]
        return jnp.take_along_axis(logits, index, -1)[..., 0]

    def expected(self, probs: ArrayLike) -> Array:
        """The expectation under probabilities ``(..., K)``; impossible states count 0.

        :return: shape ``(...)``.
        """
        probs = jnp.asarray(probs)
        return jnp.sum(probs * jnp.where(probs > 0, self.logits, 0.0), -1)
