# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Local sites that say nothing of the data: a posterior at its prior, or one state."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.diagnostics.masks import counted_positions
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.parts import whole_name
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.groups import Group, coupled_groups

__all__ = ["collapsed_sites"]

_FEWEST_NATS = 0.01  # of information in a position
_LEAST_SHARE = 0.01  # of the variance of a latent dimension that data decide
_ONE_STATE = 0.999  # of the data


def collapsed_sites(
    structure: Structure, bound: Bound, local: LocalPosterior
) -> dict[str, str]:
    """Local sites that have collapsed, with what shows it.

    - The divergence of what is inferred together from its prior is about zero: data
      have no influence.
    - The means of a vector or path hardly vary between data beside its posterior
      variance: it says the same of all of them (the inactive units of Burda et al.,
      *Importance weighted autoencoders*, ICLR 2016).
    - All data are in one state of a discrete site.

    One with a single state has nothing to say, and is not looked at.

    :param structure: the wiring.
    :param bound: the data.
    :param local: the posterior of the local sites.
    :return: the reasons, by site; it is empty where none has collapsed.
    """
    found: dict[str, str] = {}
    for group in coupled_groups(structure):
        for name in (*group.discrete, *group.states):
            counts = counted_positions(structure, bound, name)
            reason = _reason(group, name, counts, local) if counts.any() else None
            if reason is not None:
                found[whole_name(bound.sites, name)] = reason
    return found


def _reason(
    group: Group, name: str, counts: Array, local: LocalPosterior
) -> str | None:
    members = (*group.discrete, *group.states)
    marginal = peel(local.marginals[name])[0]
    if name in group.discrete and marginal.probs.shape[-1] == 1:
        return None
    nats = sum(float(jnp.sum(local.kl[member])) for member in members)
    nats = nats / int(counts.sum())
    if nats < _FEWEST_NATS:
        return f"its posterior is its prior: {nats:.2g} nats of information in each"
    if name in group.discrete:
        return _one_state(marginal, counts)
    return _same_everywhere(marginal, counts)


def _one_state(marginal: Any, counts: Array) -> str | None:
    totals = np.asarray(jnp.sum(marginal.probs[counts], 0))
    share = totals / totals.sum()
    if share.max() > _ONE_STATE:
        return f"{share.max():.2%} of all data are in state {share.argmax()}"
    return None


def _same_everywhere(marginal: Any, counts: Array) -> str | None:
    means, variances = marginal.mean[counts], marginal.variance[counts]
    if len(means) < 2:
        return None
    between, within = np.asarray(jnp.var(means, 0)), np.asarray(jnp.mean(variances, 0))
    share = between / np.maximum(between + within, np.finfo(between.dtype).tiny)
    dead = np.flatnonzero(share < _LEAST_SHARE)
    if not dead.size:
        return None
    which = "all" if dead.size == share.size else "some"
    return (
        f"{which} of its dimensions are the same for all data, {dead.tolist()} of "
        f"{share.size}: posterior means vary by {share[dead].max():.2%} at most"
    )
