# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Messages of factors that are not conjugate, on their way to where they belong."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.local.nonlinear_steps import Steps
from numpyro_svae.potentials import GaussianPotential

__all__ = ["Said", "where_known"]

ByName = dict[str, Array]


class Said(NamedTuple):
    """Messages of factors that are not conjugate.

    :param potentials: of likelihoods, by the vector that they are sent to.
    :param steps: of chains that are not linear.
    """

    potentials: dict[str, GaussianPotential]
    steps: dict[str, Steps]

    def beside(self, given: dict[str, Any]) -> dict[str, Any]:
        """The potentials that sites are told, with those that are given.

        :param given: what the recognition function says.
        """
        found = dict(given)
        leftovers = {name: steps.leftover for name, steps in self.steps.items()}
        for name, own in (*self.potentials.items(), *leftovers.items()):
            found[name] = found[name] + own if name in found else own
        return found

    def towards(self, goal: Said, rates: ByName, noises: ByName) -> Said:
        """Messages that are a part of the way to others.

        :param goal: the others.
        :param rates: which part, at the positions of each vector.
        :param noises: of the steps of chains, by position.
        """
        potentials, steps = {}, {}
        for name, own in self.potentials.items():
            part = partial(_between, rates[name])
            potentials[name] = jax.tree.map(part, own, goal.potentials[name])
        for name, found in self.steps.items():
            further = goal.steps[name], rates[name], noises[name]
            steps[name] = found.towards(*further)
        return Said(potentials, steps)

    def chosen(self, takes: ByName, old: Said) -> Said:
        """These messages where they are taken, and others elsewhere.

        :param takes: by vector, at its positions.
        :param old: the others.
        """

        def choose(name: str, new: Any, old: Any) -> Any:
            return jax.tree.map(partial(_where, takes[name]), new, old)

        known = self.potentials.items()
        potentials = {n: choose(n, x, old.potentials[n]) for n, x in known}
        return Said(
            potentials, {n: choose(n, x, old[1][n]) for n, x in self[1].items()}
        )


def where_known(far: Array, goal: Any, said: Any) -> Any:
    """A goal, with what is said at positions where it is no number.

    :param far: how far it is, at each position.
    """
    return jax.tree.map(partial(_where, jnp.isfinite(far)), goal, said)


def _between(share: Array, old: Array, new: Array) -> Array:
    share = jnp.expand_dims(share, tuple(range(share.ndim, old.ndim)))
    return (1 - share) * old + share * new


def _where(take: Array, new: Array, old: Array) -> Array:
    return jnp.where(jnp.expand_dims(take, tuple(range(take.ndim, old.ndim))), new, old)
