# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where sweeps of likelihoods that are not conjugate start.

Sites that are given potentials start at these. All others start at the best of several
starts, by datum: the prior, or the prior made narrow, since where the prior is wide its
expectations may overflow.
"""

from __future__ import annotations

from operator import itemgetter

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.local.gradient_sweeps import Point, Potentials, Sweeps
from numpyro_svae.inference.local.nonlinear_steps import LinearSteps
from numpyro_svae.inference.local.site_messages import messages_of
from numpyro_svae.inference.local.sweep_messages import Messages

__all__ = ["start_of"]

_TIGHTER = (0.0, 9.0, 99.0, 999.0)  # what starts add to prior precisions, times these


def start_of(sweeps: Sweeps, given: Potentials) -> Point:
    """The start of sweeps.

    :param sweeps: the sweeps.
    :param given: potentials that vectors start at, of some of them. Where the bound of
        a datum is not finite there, it starts as if it were given none.
    """
    vectors = [n for datum in sweeps.data for n in sweeps.targets(datum)]
    steps = sweeps.chains.start(sweeps.potentials | given)
    if not sweeps.senders:
        return sweeps.look(Messages({}, steps))
    if not set(vectors) <= set(given):
        return _best(sweeps, given, steps)
    first = sweeps.look(Messages(_nothing(sweeps) | given, steps))
    usable = tuple(map(jnp.isfinite, first.bound))

    def other() -> Point:
        return sweeps.choose(usable, first, _best(sweeps, {}, steps))

    all_usable = jnp.stack([jnp.all(part) for part in usable]).all()
    return lax.cond(all_usable, lambda: first, other)


def _best(sweeps: Sweeps, given: Potentials, steps: dict[str, LinearSteps]) -> Point:
    """The best of several starts, by datum.

    :param steps: of chains that are not linear.
    """
    factors = sweeps.factors
    local = sweeps.infer(Messages(_nothing(sweeps) | given, steps))

    def at(tighter: Array) -> Point:
        message = dict(given)
        for name in sweeps.senders:
            if name not in given:
                kind, extent = messages_of(factors.local(name)), factors.extent(name)
                moments = kind.moments(local.marginals[name], extent)
                message[name] = kind.narrowed(moments, tighter)
        return sweeps.look(Messages(message, steps))

    points = lax.map(at, jnp.asarray(_TIGHTER))
    best, *others = (jax.tree.map(itemgetter(i), points) for i in range(len(_TIGHTER)))
    for other in others:
        takes = tuple(map(jnp.greater, other.bound, best.bound))
        best = sweeps.choose(takes, other, best)
    return best


def _nothing(sweeps: Sweeps) -> Potentials:
    factors, found = sweeps.factors, {}
    for name in sweeps.senders:
        local = factors.local(name)
        found[name] = messages_of(local).nothing(local, factors.extent(name))
    return found
