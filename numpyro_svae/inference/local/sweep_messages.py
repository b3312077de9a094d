# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Messages of factors that are not conjugate, on their way to where they belong."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.local.nonlinear_steps import LinearSteps

__all__ = ["Messages", "between", "chosen", "where_known"]

ByName = dict[str, Array]


class Messages(NamedTuple):
    """Messages of factors that are not conjugate.

    :param potentials: of likelihoods, by the site that they are sent to.
    :param steps: of chains that are not linear.
    """

    potentials: dict[str, Any]
    steps: dict[str, LinearSteps]

    def beside(self, given: dict[str, Any]) -> dict[str, Any]:
        """The potentials of all sites: these, and those that are given of others.

        What steps leave over is added to the potential of their chain.

        :param given: what the recognition function says.
        """
        found = given | self.potentials
        for name, steps in self.steps.items():
            own = steps.leftover
            found[name] = found[name] + own if name in found else own
        return found

    def towards(self, goal: Messages, rates: ByName, noises: ByName) -> Messages:
        """Messages that are a part of the way to others.

        :param goal: the others.
        :param rates: which part, at the positions of each site.
        :param noises: of the steps of chains, by position.
        """
        potentials, steps = {}, {}
        for name, own in self.potentials.items():
            part = partial(between, rates[name])
            potentials[name] = jax.tree.map(part, own, goal.potentials[name])
        for name, found in self.steps.items():
            further = goal.steps[name], rates[name], noises[name]
            steps[name] = found.towards(*further)
        return Messages(potentials, steps)

    def chosen(self, takes: ByName, old: Messages) -> Messages:
        """These messages where they are taken, and others elsewhere.

        :param takes: by site, at its positions.
        :param old: the others.
        """

        def choose(name: str, new: Any, old: Any) -> Any:
            return jax.tree.map(partial(chosen, takes[name]), new, old)

        known = self.potentials.items()
        potentials = {n: choose(n, x, old.potentials[n]) for n, x in known}
        return Messages(
            potentials, {n: choose(n, x, old[1][n]) for n, x in self[1].items()}
        )


def where_known(far: Array, goal: Any, message: Any) -> Any:
    """A goal, with the message at positions where it is no number.

    :param far: how far it is, at each position.
    """
    return jax.tree.map(partial(chosen, jnp.isfinite(far)), goal, message)


def between(share: Array, old: Array, new: Array) -> Array:
    """A message that is a part of the way from one to another.

    :param share: which part, at each position; the messages may have an event.
    """
    share = jnp.expand_dims(share, tuple(range(share.ndim, old.ndim)))
    return (1 - share) * old + share * new


def chosen(take: Array, new: Array, old: Array) -> Array:
    """One message where it is taken, and another one elsewhere.

    :param take: whether it is, at each position; the messages may have an event.
    """
    return jnp.where(jnp.expand_dims(take, tuple(range(take.ndim, old.ndim))), new, old)
