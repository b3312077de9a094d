# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What labels that are known in part say of the discrete site that has them."""

from __future__ import annotations

from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.potentials import CategoricalPotential

__all__ = ["known_labels"]


def known_labels(factors: ExpectedFactors, name: str) -> Array:
    """Rules out all states but the label where one is known, counted or not."""
    extent, size = factors.extent(name), factors.local(name).size
    label = factors.structure.labels.get(name)
    if label is None:
        return jnp.zeros((*extent.positions, size))
    args = factors.site(label).value, size, factors.bound.seen[name]
    return CategoricalPotential.from_labels(*args).logits
