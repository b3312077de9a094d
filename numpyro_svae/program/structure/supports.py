# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Parts of a path that have no noise: which they are, and what is left of a factor.

A first state or a transition may have a covariance that is singular by design: lags in
a companion form, a trend that moves evenly, coefficients that do not move at all. With
E the directions that have noise, and E' E = 1, the factor is the Gaussian of E' v, and
the rest of v is a function of its parents, which nothing learnt has a part in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks.chain_expectations import Noisy

__all__ = ["Support"]


@dataclass(frozen=True, eq=False)
class Support:
    """The directions in which a part of a chain has noise.

    :param basis: E, of shape ``(D, d)``, with orthonormal columns. They are coordinates
        where these will do.
    """

    basis: np.ndarray

    @property
    def dim(self) -> int:
        """d, the number of directions."""
        return self.basis.shape[-1]

    @property
    def in_entries(self) -> bool:
        """Whether the directions are entries of the state."""
        return Noisy(steps=self.basis).in_entries

    def _like(self, other: Any) -> Array:
        """E in the precision of another array."""
        return jnp.asarray(self.basis, jnp.asarray(other).dtype)

    def seen(self, matrix: Array) -> Array:
        """``E' M`` of matrices ``(..., D, P)``."""
        return self._like(matrix).T @ matrix

    def seen_vector(self, vector: Array) -> Array:
        """``E' v`` of vectors ``(..., D)``."""
        return vector @ self._like(vector)

    def seen_covariance(self, covariance: Array) -> Array:
        """``E' C E`` of covariances ``(..., D, D)``."""
        return self.seen(covariance) @ self._like(covariance)

    def unseen(self, matrix: Array) -> Array:
        """``(I - E E') M``, what there is without noise."""
        return matrix - self.shown(self.seen(matrix))

    def shown(self, matrix: Array) -> Array:
        """``E M`` of matrices ``(..., d, P)``."""
        return self._like(matrix) @ matrix

    def shown_covariance(self, covariance: Array) -> Array:
        """``E C E'`` of covariances ``(..., d, d)``."""
        return self.shown(covariance) @ self._like(covariance).T
