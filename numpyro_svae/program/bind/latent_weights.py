# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Tables of discrete sites that are functions of global Gaussian blocks.

They are logs of the probabilities of a latent site, or of those of data in each of its
states. What is expected of them is a message to the discrete site, and their average
over its states is the likelihood of a regression to the weights: gradients through the
moments of the weights are messages to these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from numpyro_svae.families import GaussianNatural
from numpyro_svae.program.bind.predictors import Average, BoundPredictors
from numpyro_svae.program.bind.tables import bind_table
from numpyro_svae.program.priors.gaussian_prior import ExpectedWeight
from numpyro_svae.program.run.sites import Program, read_site, sample_sites
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.likelihoods import Likelihoods
from numpyro_svae.program.structure.linear_parts import Split
from numpyro_svae.program.structure.probing import Prober, plain_run

__all__ = ["BoundWeights", "bind_weights"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "vector"],
    meta_fields=[
        *("site", "batch_rank", "blocks", "statics", "structure", "rule"),
        *("role", "order", "alike", "parent"),
    ],
)
@dataclass(frozen=True)
class BoundWeights(BoundPredictors):
    """The logs of the probabilities of a latent discrete site, given weights.

    :param role: the part of its density that they are in.
    :param order: in which order predictors have the axes of the positions; empty for
        the same order.
    :param alike: whether they are the same after all states of a chain, which are no
        positions then.
    :param parent: the latent vector that they depend on too; empty for none.
    :param vector: its value.
    """

    role: str = "value"
    order: tuple[int, ...] = ()  # type: ignore[misc]
    alike: bool = False
    parent: str = ""  # type: ignore[misc]
    vector: Array | None = None

    event_dim = 1

    def beside(self, vector: Array) -> BoundWeights:
        """The same at a value ``(*positions, D)`` of the latent vector."""
        return replace(self, vector=vector)

    def values(self, weights: tuple[Array, ...]) -> dict[str, Array]:
        found = super().values(weights)
        return found if self.vector is None else found | {self.parent: self.vector}

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
            found = kind.log_probs(fn)
            return found[..., 0, :] if self.alike else found

        return self.parts(logs)

    def average(self, moments: dict[str, ExpectedWeight]) -> Array:
        found = super().average(moments)
        if not self.alike:
            return found
        shape = (*found.shape[:-1], *2 * found.shape[-1:])
        return jnp.broadcast_to(found[..., None, :], shape)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays"],
    meta_fields=[
        *("site", "batch_rank", "blocks", "statics", "structure", "rule"),
        *("factor", "order"),
    ],
)
@dataclass(frozen=True)
class BoundDensities(BoundPredictors):
    """The log density of an observed site in each state of discrete sites.

    States are positions: what is predicted in one is apart from the others.

    :param factor: the factor.
    :param order: in which order predictors have the axes of the positions and states.
    """

    factor: Any = None
    order: tuple[int, ...] = ()  # type: ignore[misc]

    def split(self) -> Split:
        """The log densities, as a function of the weights, in parts."""
        known = Likelihoods(self.statics, self.arrays, self.structure)
        structure = self.structure
        parts = structure.priors, structure.locals, structure.joins

        def logs(*weights: Array) -> Array:
            values = self.values(weights)
            sites = sample_sites(plain_run(known.program, structure, values))
            prober = Prober(known.program, sites, *parts, at_plain=True)
            return bind_table(prober, sites[self.site], self.factor, values)

        return self.parts(logs)

    def narrow(
        self,
        key: Array,
        name: str,
        prior: GaussianNatural,
        priors: dict[str, Any],
        scale: Any,
    ) -> GaussianNatural:
        """A block that starts where predictors vary by about one, around random means.

        Under the prior all states are alike, and would stay so.
        """
        found = super().narrow(key, name, prior, priors, 1.0)
        count = prod(self.split().output_shape)
        apart = prior.precision + (found.precision - prior.precision) / count
        mean = prior.moments().mean
        noise = random.normal(key, mean.shape, mean.dtype)[..., None]
        tril = jnp.linalg.cholesky(apart)
        move = solve_triangular(tril, noise, lower=True, trans=1)
        return GaussianNatural.from_mean(mean + move[..., 0], found.precision)


def bind_weights(
    program: Program, structure: Structure, rule: Average | None = None
) -> dict[tuple[str, str], BoundWeights | BoundDensities]:
    """The tables that have latent weights, by site and role.

    :param program: the program, with its parameters and plates fixed.
    :param structure: its wiring.
    :param rule: how they are averaged; None if they are not to be.
    """
    factors = [f for f in structure.factors if f.weights]
    if not factors:
        return {}
    program = replace(program, key=random.PRNGKey(0))  # nothing here is drawn
    statics, arrays = Likelihoods.split(program)
    found = dict[tuple[str, str], BoundWeights | BoundDensities]()
    for factor in factors:
        blocks: Any = tuple(structure.priors[name] for name in factor.weights)
        known = factor.site, 0, blocks, arrays, statics, structure, rule
        key, order = (factor.site, factor.role), factor.order
        if factor.form in ("weights", "logits"):
            own: Any = {"role": factor.role, "parent": factor.parent or ""}
            own |= {"order": order, "alike": factor.alike}
            found[key] = BoundWeights(*known, **own)
        else:
            found[key] = BoundDensities(*known, factor=factor, order=order)
    return found
