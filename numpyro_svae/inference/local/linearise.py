# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sweeps that are not guarded: steps that are not linear as the closest linear ones.

A sweep infers the paths with linear steps, and puts those there that are closest at
the posterior. It needs no bound and no derivative of a transition. They start at paths
that rest where they begin, which follow what potentials say of them.

**Source:** A. F. Garcia-Fernandez, L. Svensson and S. Sarkka, *Iterated posterior
linearization smoother*, IEEE Transactions on Automatic Control 62, 2017.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp

from numpyro_svae.inference.local.gradient_messages import VectorMoments, moments_of
from numpyro_svae.inference.local.learnt_transitions import spread_of_weights
from numpyro_svae.inference.local.messenger import Messenger
from numpyro_svae.inference.local.nonlinear_chains import AllSteps, Chains
from numpyro_svae.inference.local.nonlinear_steps import (
    LinearSteps,
    linear_steps,
    points_of,
    steps_of,
)
from numpyro_svae.inference.local.posterior import Convergence
from numpyro_svae.inference.local.sweep_messages import Messages

__all__ = ["linearise"]


def linearise(
    messenger: Messenger, sweeps: int, kept: tuple[Array, AllSteps] | None = None
) -> tuple[Messages, dict[str, Convergence]]:
    """The linear steps after some sweeps.

    :param messenger: what knows the chains, of which nothing else is sent messages.
    :param sweeps: how many.
    :param kept: whether there were earlier sweeps, and where they ended.
    :return: and how far the last sweep moved the steps of each chain.
    """
    chains = messenger.chains
    start = chains.at_rest(jnp.array(True))
    if kept is not None:
        known, before = kept
        start = jax.tree.map(lambda x, y: jnp.where(known, x, y), before, start)

    def sweep(steps: AllSteps, _: None) -> tuple[AllSteps, dict[str, Array]]:
        local, found, moved = messenger.infer(Messages({}, steps)), {}, {}
        for name in steps:
            found[name] = _closest(chains, name, local.marginals[name])
            far = chains.remains(name, steps[name], found[name])
            moved[name] = jnp.max(messenger.far(name, far))
        return found, moved

    steps, moved = lax.scan(sweep, start, None, sweeps)
    number = jnp.array(sweeps, jnp.int32)
    ends = {name: Convergence(number, far[-1]) for name, far in moved.items()}
    return Messages({}, steps), ends


def _closest(chains: Chains, name: str, path: Any) -> LinearSteps:
    """The closest linear steps at the moments of a path.

    What is left over is that of uncertain weights alone.
    """
    transition = chains.transitions[name]
    mean, tril = moments_of(path, chains.factors.extent(name).positions)
    before = VectorMoments(mean[..., :-1, :], tril[..., :-1, :, :])
    points = points_of(chains.rule, before)
    matrices, _ = linear_steps(transition.means, before, points)
    nothing = jnp.zeros_like(before.mean), jnp.zeros_like(before.tril)
    steps = steps_of(matrices, nothing, before)
    if not transition.features.columns:
        return steps
    placement, _ = linear_steps(transition.features_at, before, points)
    return steps.with_leftover(spread_of_weights(transition.learnt, placement))
