# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Logits of latent discrete sites that are functions of global Gaussian blocks.

The expected logs of the probabilities are a message to the discrete site, and their
average over its states is the likelihood of a regression to the weights: gradients
through the moments of the weights are messages to these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp

from numpyro_svae.program.bind.predictors import Average, BoundPredictors
from numpyro_svae.program.run.sites import Program, read_site
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods
from numpyro_svae.program.structure.linear_parts import Split
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["BoundWeights", "bind_weights"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays"],
    meta_fields=[
        *("site", "batch_rank", "blocks", "statics", "structure", "rule"),
        *("role", "order"),
    ],
)
@dataclass(frozen=True)
class BoundWeights(BoundPredictors):
    """The logs of the probabilities of a latent discrete site, given weights.

    :param role: the part of its density that they are in.
    :param order: in which order predictors have the axes of the positions; empty for
        the same order.
    """

    role: str = "value"
    order: tuple[int, ...] = ()  # type: ignore[misc]

    event_dim = 1

    def split(self) -> Split:
        """The logs of the probabilities, as a function of the weights, in parts."""
        known = Likelihoods(self.statics, self.arrays, self.structure)
        kind = self.structure.locals[self.site].kind

        def logs(*weights: Array) -> Array:
            values = self.values(weights)
            messages = plain_run(known.program, self.structure, values)
            fn: Any = read_site(messages[self.site]).fn
            if self.role == "initial":
                return jnp.log(fn.initial_probs)
            return kind.log_probs(fn)

        return self.parts(logs)

    def rows(self, moments: dict[str, Any]) -> Array:
        """Expected logs of the probabilities, as the program has them.

        :param moments: of all blocks.
        """
        return self.average(moments)


def bind_weights(
    program: Program, structure: Structure, rule: Average | None = None
) -> dict[tuple[str, str], BoundWeights]:
    """The logits that have latent weights, by site and role.

    :param program: the program, with its parameters and plates fixed.
    :param structure: its wiring.
    :param rule: how they are averaged; None if they are not to be.
    """
    factors = [f for f in structure.factors if f.form == "weights"]
    if not factors:
        return {}
    program = replace(program, key=random.PRNGKey(0))  # nothing here is drawn
    statics, arrays = Likelihoods.split(program)
    found = {}
    for factor in factors:
        blocks: Any = tuple(structure.priors[name] for name in factor.weights)
        known, key = (arrays, statics, structure, rule), (factor.site, factor.role)
        found[key] = BoundWeights(
            factor.site, 0, blocks, *known, role=factor.role, order=factor.order
        )
    return found
