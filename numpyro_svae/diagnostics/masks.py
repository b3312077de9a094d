# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which entries of a site are data: what is masked, or padding, is not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.kinds import lengths_of
from numpyro_svae.program.run.parts import label_of
from numpyro_svae.program.run.positions import extent_of, pull_to
from numpyro_svae.program.run.wrappers import at_positions, peel, unmasked
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.groups import coupled_groups, scope
from numpyro_svae.program.structure.labels import counted_labels

__all__ = [
    "blanked",
    "counted_entries",
    "counted_positions",
    "in_plates",
    "seen_members",
    "with_priors",
]

Messages = dict[str, dict]


def counted_entries(message: dict) -> np.ndarray | None:
    """Which entries of the value of a site count, ``(*value.shape,)``; None for all."""
    fn, mask, _ = peel(message["fn"])
    shape, lengths = np.shape(message["value"]), lengths_of(fn)
    counts: np.ndarray | None = None
    if mask is not None:
        whole = np.asarray(mask)
        whole = whole.reshape(whole.shape + (1,) * fn.event_dim)
        counts = np.broadcast_to(whole, shape)
    if lengths is not None:
        exists = np.arange(fn.event_shape[0]) < np.asarray(lengths)[..., None]
        exists = exists.reshape(exists.shape + (1,) * (fn.event_dim - 1))
        counts = np.broadcast_to(exists, shape) if counts is None else counts & exists
    return counts


def blanked(value: Any, counts: np.ndarray | None) -> np.ndarray:
    """Values, draws leading or not, with NaN where they do not count."""
    value = np.asarray(value)
    return value if counts is None else np.where(counts, value, np.nan)


def in_plates(messages: Collection[dict], plates: tuple[str, ...]) -> np.ndarray | None:
    """Which members of plates have any entry of some sites that counts.

    :param messages: of the sites, all of which are in the plates.
    :param plates: the plates, in the order of the dimensions of the result.
    :return: None if all members have, and for no sites.
    """
    found = np.asarray(False)
    for message in messages:
        counts = counted_entries(message)
        if counts is None:
            return None
        event = message["fn"].event_dim
        frames = {f.name: f.dim - event for f in message["cond_indep_stack"]}
        kept = [frames[name] for name in plates]
        axes = [a for a in range(-counts.ndim, 0) if a not in kept]
        found = found | counts.any(tuple(axes))
    return None if found.all() or not messages else found


def seen_members(messages: Collection[dict], plates: Collection[int]) -> Array | None:
    """Which members of plates have data that are not masked; values may be traced.

    :param messages: of the observed sites, all of which are in the plates.
    :param plates: their dimensions.
    :return: None if all have.
    """
    found = jnp.zeros((), bool)
    for message in messages:
        fn, (_, mask, extra) = message["fn"], peel(message["fn"])
        if mask is None:
            return None
        mask = jnp.broadcast_to(mask, fn.batch_shape + fn.event_shape[:extra])
        rank = len(fn.batch_shape)
        axes = (a for a in range(mask.ndim) if a >= rank or a - rank not in plates)
        found = found | jnp.any(mask, tuple(axes))
    return found if messages else None


def with_priors(sites: Messages, drawn: Messages) -> tuple[Messages, Messages]:
    """Messages in which masked entries of latent sites have their densities.

    NumPyro counts neither the prior of such an entry nor the guide's density of it, and
    they are the same only where the guide has that prior. Where it is one of several
    independent sites, it has the expectation of its prior over the others. A draw of a
    graph has the ratio of both in its density.

    :param sites: of the model, at what was drawn.
    :param drawn: of the guide.
    """
    ours, theirs = dict(drawn), dict(sites)
    for name, message in drawn.items():
        own = message["infer"].get("scanned", name)
        if own not in sites:  # the label of a mixture, which counts nowhere
            continue
        if label_of(own) is None and peel(message["fn"])[1] is not None:
            steps = len(sites[own]["value"]) if own != name else None
            ours[name] = {**message, "fn": _whole(message["fn"], steps)}
            theirs[own] = {**sites[own], "fn": unmasked(sites[own]["fn"])}
    return theirs, ours


def _whole(fn: Any, steps: int | None) -> Any:
    """A distribution without masks; in a scan, that of the last steps.

    A path of the guide begins at the first state of a chain beside it, where a program
    that scans has no site.
    """
    if steps is None or steps == fn.event_shape[0]:
        return unmasked(fn)
    extra = peel(fn)[2]
    exists = jnp.arange(fn.event_shape[0]) > 0
    exists = exists.reshape(-1, *(1,) * (extra - 1))
    return at_positions(unmasked(fn), extra).mask(exists).to_event(extra)


def counted_positions(structure: Structure, bound: Bound, name: str) -> Array:
    """Which positions of a local site have data, directly or by what depends on it.

    Those of a label that is known count too.
    """
    factors, sites = ExpectedFactors(structure, bound, {}), bound.sites
    group = next(g for g in coupled_groups(structure) if name in g.discrete + g.states)
    members, local = {*group.discrete, *group.states}, extent_of(sites[name])
    joined = {n: 0 for n, latents in structure.likelihoods.items() if members & latents}
    for factor in factors.observed():
        if members & _of(structure, factor):
            joined[factor.site] = factor.source.offset
    counts = jnp.zeros(local.positions)
    for site, offset in joined.items():
        extent = extent_of(sites[site])
        ones = jnp.ones(extent.positions)
        counts = counts + pull_to(ones, local, extent, 0, offset)
    mask = local.mask
    if label_of(name) in sites:
        mask = counted_labels(sites, name)
    return (counts > 0) & (True if mask is None else mask)


def _of(structure: Structure, factor: Any) -> set[str]:
    return set(scope(structure, factor))
