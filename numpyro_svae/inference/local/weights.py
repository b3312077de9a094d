# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Terms of an ELBO, averaged exactly over the states of discrete sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.program.run.scans import is_scanned
from numpyro_svae.program.run.wrappers import at_positions

__all__ = ["Weight", "weighted"]


class Weight(NamedTuple):
    """The probability of the state of a discrete site that a term was computed under.

    :param frames: the plates of the site.
    :param probs: of the state, with the positions of the site.
    :param extra: how many of these are event dimensions.
    :param uniform: one over the number of states.
    :param scanned: whether the model has the site in a scan.
    """

    frames: frozenset
    probs: Array
    extra: int
    uniform: float
    scanned: bool

    @classmethod
    def of(cls, site: dict, table: Array, state: Array) -> Weight:
        """The weight of one state of a guide site.

        :param site: the site.
        :param table: the probabilities of all of its states.
        :param state: the state.
        """
        extra = table.ndim - 1 - len(site["fn"].batch_shape)
        frames = frozenset(site["cond_indep_stack"])
        scanned = "scanned" in site["infer"]
        return cls(frames, table[..., state], extra, 1 / table.shape[-1], scanned)

    def placed(self, site: dict) -> Weight:
        """The weight with the positions that it has at a site.

        The sites of a scan have time in front, at the steps after the first state. A
        site outside of it is at the first state, unless it is over all of time.
        """
        if not self.scanned:
            return self
        axis = self.probs.ndim - self.extra
        if is_scanned(site):
            steps = site["fn"].batch_shape[0]
            probs = lax.slice_in_dim(self.probs, -steps, None, axis=axis)
            return self._replace(probs=jnp.moveaxis(probs, axis, 0), extra=0)
        over = at_positions(site["fn"], self.extra)
        if over is not None and over.batch_shape == self.probs.shape:
            return self
        return self._replace(probs=jnp.take(self.probs, 0, axis), extra=0)

    def covers(self, site: dict) -> bool:
        """Whether a site is in all of its plates.

        A term outside of them is the same for each of its states.
        """
        return self.frames <= frozenset(site["cond_indep_stack"])


def weighted(site: dict, weights: list[Weight], term: Callable) -> Array:
    """The sum of a term, weighted by the probability of its assignment.

    :param term: the term with a number of event dimensions not summed over.
    """
    own = [weight.placed(site) for weight in weights if weight.covers(site)]
    extra = max((weight.extra for weight in own), default=0)
    value = term(extra)
    for weight in own:
        missing = tuple(range(-(extra - weight.extra), 0))
        value = value * jnp.expand_dims(weight.probs, missing)
    for weight in weights:
        value = value if weight.covers(site) else value * weight.uniform
    return jnp.sum(value)
