# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What data say of a Gaussian factor: members of a batch, and inputs of a scan."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.bind.affine import View
from numpyro_svae.program.priors.joins import Join
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.structure.factors import GaussianFactor

__all__ = ["gathered_members", "scanned_inputs"]


def gathered_members(view: View, factor: GaussianFactor) -> Array:
    """Which member of a batch each position of a Gaussian factor has.

    At the plain values the covariance of a member is one more than its index; where no
    covariance has a batch, the weights of members are made to differ so.

    :return: of shape ``(*positions, *states)``, with the states of all selectors.
    """
    positions, holder = extent_of(view.site, view.role).positions, view.holder

    def seen(states: dict[str, Any]) -> Array:
        entry = 0
        if isinstance(holder, Join):
            if not (holder.noise and holder.noise.components):
                return _marked(view, holder, states)
            entry = holder.noise.batched_entry
        found = view.covariance(states)[..., entry, entry]
        return found / view.scale() if factor.beside.scaled else found

    found = view.in_states(factor.selectors, seen, 0)
    states = found.shape[found.ndim - len(factor.selectors) :]
    members = jnp.round(found).astype(jnp.int32) - 1
    return jnp.broadcast_to(members, (*positions, *states))


def _marked(view: View, holder: Join, states: dict[str, Any]) -> Array:
    """By how much weights that differ between members multiply what is seen of them.

    :param states: of the discrete sites.
    """
    prober = view.prober
    states = states | {
        name: jnp.zeros_like(prober.sites[name].value) + _distinct(local.size)
        for name, local in prober.locals.items()
        if not local.discrete
    }
    once, more = view.rows(states), view.rows(states, marked=True)
    origin, batched = view.location(states), jnp.asarray(holder.batched_columns)
    if view.vector:
        once, more = once - origin[..., :1], more - origin[..., :1]
    else:  # each entry of S
        shape = (*once.shape[:-2], -1)
        batched = jnp.repeat(batched, once.shape[-1])
        once, more = ((x - origin[..., :1, :]).reshape(shape) for x in (once, more))
    best = jnp.argmax(jnp.where(batched, jnp.abs(once), -1.0), -1)[..., None]
    once, more = (jnp.take_along_axis(x, best, -1)[..., 0] for x in (once, more))
    seen = once != 0  # where nothing is seen of a member, any will do
    return jnp.where(seen, more / jnp.where(seen, once, 1.0), 1.0)


def _distinct(size: int) -> Array:
    """A vector whose entries do not cancel in a map by accident."""
    return jnp.sqrt(2.0 + jnp.arange(size))


def scanned_inputs(view: View) -> Array | None:
    """The inputs ``(..., T - 1, A)`` of a chain that a scan spells; None without any.

    A scan shows their effect on the mean of a state, and so the inputs themselves where
    the weights of the block are zero but for one.
    """
    prober, name, holder = view.prober, view.site.name, view.holder
    chains = {n: c for scan in prober.program.scans for n, c in scan.chains.items()}
    moved = name in chains and chains[name].moved and chains[name].linear
    if not moved or view.role != "transition" or view.support is not None:
        return None
    if getattr(holder, "part", "") != "both":
        return None

    def show(column: Array) -> Array:
        return view.location({}, column)[..., 0, -1]

    dim = prober.locals[name].size
    return jnp.moveaxis(jax.vmap(show)(jnp.arange(dim, holder.columns)), 0, -1)
