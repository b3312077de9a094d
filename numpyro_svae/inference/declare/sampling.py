# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The sample sites that a guide emits for what it has inferred."""

from __future__ import annotations

from math import prod
from typing import Any

from jax import Array, random
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from numpyro_svae.inference.declare.declared import Total
from numpyro_svae.inference.declare.without_padding import WithoutPadding
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.run.positions import extent_of, read_at
from numpyro_svae.program.run.scans import Scan
from numpyro_svae.program.run.shown import Shown
from numpyro_svae.program.run.sites import Site, is_path
from numpyro_svae.program.run.wrappers import at_positions, peel
from numpyro_svae.program.structure.factors import Structure

__all__ = [
    "closed_forms",
    "draw_graphs",
    "joint_name",
    "path_name",
    "sample_global",
    "sample_local",
    "sample_plain",
]


def closed_forms(
    local: LocalPosterior, sites: dict[str, Site], scans: tuple[Scan, ...], prefix: str
) -> dict[str, Any]:
    """What is declared of several sites together.

    :param local: the posterior of the local sites.
    :param sites: the sites of the model.
    :param scans: the scans whose bodies have sites.
    :param prefix: prefix of the names of auxiliary sites.
    """

    def shown(name: str) -> str:
        scanned = name in local.kl and any(name in scan for scan in scans)
        return path_name(name, prefix) if scanned else name

    names = (*local.expected_log_prob, *local.kl)
    scales = {shown(name): sites[name].scale for name in names}
    if any(jnp.ndim(scale) for scale in scales.values()):  # one for each entry
        return {"expected_log_prob": local.expected_log_prob}
    total = Total({shown(n): value for n, value in local.totals.items()}, scales)
    return {"expected_log_prob": local.expected_log_prob, "total": total}


def joint_name(name: str, prefix: str) -> str:
    """Name of the auxiliary site of a global block that is spelled as two sites."""
    return f"{name}_{prefix}_joint"


def path_name(name: str, prefix: str) -> str:
    """Name of the auxiliary site of a chain that a scan spells."""
    return f"{name}_{prefix}_path"


def _point(
    value: Array, log_density: Array | float, event_dim: int, rank: int
) -> dist.Delta:
    """A point mass at a draw, whose entries in the batch share a density, and which has
    those of all members that the program has in its event.

    :param value: the draw.
    :param log_density: its log density, with ``rank`` batch dimensions or fewer.
    :param event_dim: how many event dimensions the site has in the program.
    :param rank: how many batch dimensions the draw has one density for each of.
    """
    batch = value.shape[: value.ndim - event_dim]
    if rank > len(batch):
        every = jnp.broadcast_to(log_density, value.shape[:rank])
        log_density = jnp.sum(every, tuple(range(len(batch), rank)))
    apart = batch[rank:]
    share = jnp.expand_dims(log_density, tuple(range(-len(apart), 0))) / prod(apart)
    return dist.Delta(value, jnp.broadcast_to(share, batch), event_dim=event_dim)


def _sample(name: str, fn: Any, shown: Shown, infer: dict[str, Any]) -> Array:
    """Sample a site from its posterior, if need be of what the program has in a batch.

    :param shown: in which shapes sites are read.
    """
    together = shown.together
    if name in shown.grids and not isinstance(fn, dist.Delta):
        fn = shown.grids[name].point(fn, fn.sample(numpyro.prng_key()))
    elif name in together and not isinstance(fn, dist.Delta):
        value = fn.sample(numpyro.prng_key())
        event_dim = fn.event_dim - together[name]
        fn = _point(value, fn.log_prob(value), event_dim, len(fn.batch_shape))
    return numpyro.sample(name, fn, infer=infer)


def sample_global(
    prior: Prior,
    fn: dist.Distribution,
    sites: dict[str, Site],
    shown: Shown,
    prefix: str,
    infer: dict[str, Any],
) -> dict[str, Array]:
    """Sample a global block.

    One that the program spells as two sites has an auxiliary site for the whole, and
    its sites are what that determines.

    :param prior: the block.
    :param fn: its posterior.
    :param sites: the sites of the model.
    :param shown: in which shapes sites are read.
    :param prefix: prefix of the names of auxiliary sites.
    :param infer: the closed forms that are declared.
    :return: values by site.
    """
    if len(prior.sites) == 1:
        return {prior.name: _sample(prior.name, fn, shown, infer)}
    joint = joint_name(prior.name, prefix)
    packed = numpyro.sample(joint, fn, infer={**infer, "is_auxiliary": True})
    values = prior.unpack(packed)
    stretch = prior.log_stretch(values)  # declared at the first site
    for site, value in values.items():
        event_dim = sites[site].outer.event_dim - shown.together.get(site, 0)
        known = {"kl": jnp.zeros(prior.batch_shape)}
        point = _point(value, stretch, event_dim, len(prior.batch_shape))
        values[site] = numpyro.sample(site, point, infer=known)
        stretch = 0.0
    return values


def draw_graphs(
    local: LocalPosterior, sites: dict[str, Site], shown: Shown
) -> dict[str, dist.Delta]:
    """Sample the sites of graphs jointly: point masses with their log density.

    :param local: the posterior of the local sites.
    :param sites: the sites of the model.
    :param shown: in which shapes sites are read.
    """
    found = {}
    for joint in local.draws:
        for name, (value, log_density) in joint.sample(numpyro.prng_key()).items():
            event_dim = sites[name].outer.event_dim
            if name in shown.grids:
                found[name] = shown.grids[name].spread(value, log_density)
                continue
            rank, own = value.ndim - event_dim, event_dim - shown.together.get(name, 0)
            found[name] = _point(value, log_density, own, rank)
    return found


def _masked(fn: Any, site: Site) -> Any:
    """A posterior whose density counts where that of its site does.

    That of a graph is left out when it is drawn.
    """
    if is_path(site.fn):
        mask = peel(site.outer)[1]
        return fn if mask is None else fn.mask(mask)
    parts = at_positions(fn, site.extra)
    if site.mask is None or parts is None:
        return fn
    mask = jnp.broadcast_to(site.mask, site.positions)
    return parts.mask(mask).to_event(site.extra)


def sample_local(
    name: str,
    local: LocalPosterior,
    sites: dict[str, Site],
    shown: Shown,
    mixtures: dict[str, str],
    drawn: dict[str, dist.Delta],
    values: dict[str, Array],
    infer: dict[str, Any],
    structure: Structure,
    prefix: str,
) -> dict[str, Array]:
    """Sample a local site, given the state of the discrete site that picks from it.

    One from a scan has an auxiliary site in the one-site spelling, and the sites of the
    program are what that determines. The label of a mixture is auxiliary too: its
    density counts nowhere but in what is declared.

    :param name: the site.
    :param local: the posterior of the local sites.
    :param sites: the sites of the model.
    :param shown: in which shapes sites are read.
    :param mixtures: the sites that are mixtures, with what picks from them.
    :param drawn: the sites that were drawn jointly.
    :param values: of the sites before it; this one is added.
    :param infer: the closed forms that are declared.
    :param structure: wiring of the program.
    :param prefix: prefix of the names of auxiliary sites.
    :return: the value under the name of the site, and those of the sites of a scan.
    """
    infer = {"kl": local.kl[name], **infer}
    if name in local.average:
        infer["average"] = local.average[name]
    states, selector = None, mixtures.get(name)
    if selector is not None:
        extents = extent_of(sites[selector]), extent_of(sites[name])
        states = read_at(values[selector], *extents, 0)
    fn = drawn.get(name)
    if fn is None:
        fn = _masked(local.given(name, states), sites[name])
    scan = next((s for s in structure.scans if name in s), None)
    if name in structure.shown.labels:
        fn, infer = fn.mask(False), {**infer, "is_auxiliary": True}
    if scan is None:
        values[name] = _sample(name, fn, shown, infer)
        return {name: values[name]}
    if sites[name].ends is not None:
        fn = WithoutPadding(fn, sites[name].fn)
    infer = {**infer, "is_auxiliary": True, "scanned": name}
    path = numpyro.sample(path_name(name, prefix), fn, infer=infer)
    values[name] = path
    rank, found = len(fn.batch_shape), {}
    unused = random.PRNGKey(0)  # so that both spellings draw alike
    for own, value in scan.split(name, path, rank).items():
        event_dim = scan.as_written(name, path).ndim - rank - 1
        known = {"kl": jnp.zeros(value.shape[: value.ndim - event_dim])}
        point = dist.Delta(value, event_dim=event_dim)
        found[own] = numpyro.sample(own, point, infer=known, rng_key=unused)
    return found


def sample_plain(structure: Structure, messages: dict[str, dict]) -> dict[str, Array]:
    """Point masses of all latent sites where a run of the program has them.

    :param structure: wiring of the program.
    :param messages: the trace of the run.
    :return: values by site.
    """
    values = {}
    names = [
        *structure.locals,
        *(n for p in structure.priors.values() for n in p.sites),
    ]
    for name in names:
        value = structure.shown.given({name: messages[name]["value"]})[name]
        scan = next((s for s in structure.scans if name in s), None)
        rank = len(messages[name]["fn"].batch_shape)
        own = {name: value} if scan is None else scan.split(name, value, rank)
        for site, part in own.items():
            point = dist.Delta(part, event_dim=jnp.ndim(part))
            values[site] = numpyro.sample(site, point)
    return values
