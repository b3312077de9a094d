# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Log probabilities of discrete sites as functions of the latent vector behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.program.run.sites import Program, read_site
from numpyro_svae.program.structure.factors import Factor, Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods, Statics
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["LatentLogits"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "points", "weights"],
    meta_fields=["statics", "structure", "factor"],
)
@dataclass(frozen=True)
class LatentLogits:
    """What the program says of a discrete site, given the vector that it depends on.

    :param arrays: the arrays of the program, by index.
    :param points: that stand for a standard normal vector, ``(S, D)``.
    :param weights: of the points, ``(S,)``.
    :param statics: what is no array in it.
    :param structure: its wiring.
    :param factor: the factor of the site.
    """

    arrays: dict[int, Any]
    points: Any
    weights: Any
    statics: Statics
    structure: Structure
    factor: Factor

    @classmethod
    def of(
        cls,
        program: Program,
        structure: Structure,
        factor: Factor,
        points: tuple[Any, Any],
    ) -> LatentLogits:
        """Those of a factor of a program.

        :param points: with their weights.
        """
        program = replace(program, key=random.PRNGKey(0))  # nothing here is drawn
        statics, arrays = Likelihoods.split(program)
        return cls(arrays, *points, statics, structure, factor)

    def expected(
        self, mean: Array, tril: Array, at: Callable[[Array], Array] | None = None
    ) -> Array:
        """Expected log probabilities; all positions are at the same point at once.

        :param mean: of the vector, ``(*positions, D)``.
        :param tril: Cholesky factors of its covariances, ``(*positions, D, D)``.
        :param at: what is expected of them given a value of the vector, where they
            depend on latent weights too.
        """
        given = self.at if at is None else at

        def moved(point: Array) -> Array:
            return given(mean + tril @ point)

        logs = jax.vmap(moved)(jnp.asarray(self.points, mean.dtype))
        return jnp.tensordot(jnp.asarray(self.weights, mean.dtype), logs, 1)

    def at(self, value: Array, weights: dict[str, Array] | None = None) -> Array:
        """Log probabilities ``(*positions, K)``, of the steps of a chain
        ``(*batch, T - 1, K, K)``.

        :param value: of the vector, ``(*positions, D)``.
        :param weights: values of the sites of latent weights.
        """
        known = Likelihoods(self.statics, self.arrays, self.structure)
        name, parent = self.factor.site, str(self.factor.parent)
        values = {**(weights or {}), parent: value}
        messages = plain_run(known.program, self.structure, values)
        site, local = read_site(messages[name]), self.structure.locals[name]
        if not local.chain:
            logs = local.kind.log_probs(site.fn)
            return jnp.broadcast_to(logs, (*site.positions, local.size))
        *batch, steps = site.positions
        logs = local.kind.log_probs(site.fn)
        return jnp.broadcast_to(logs, (*batch, steps - 1, local.size, local.size))
