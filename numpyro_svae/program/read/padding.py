# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Checks that nothing counts where the sequences of a chain have ended.

`lengths` says that a chain has ended, not that what depends on it has. A program scores
an observation of a step that does not exist as it is written, so it has to be masked.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.run.kinds import lengths_of
from numpyro_svae.program.run.origins import elsewhere
from numpyro_svae.program.run.positions import extent_of, is_at, read_at
from numpyro_svae.program.run.sites import Program, Site, read_site, sample_sites
from numpyro_svae.program.run.wrappers import at_positions
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.groups import scope
from numpyro_svae.program.structure.probing import plain_run, random_globals_of

__all__ = ["check_padding"]


def check_padding(program: Program, structure: Structure, concrete: bool) -> None:
    """What depends on a chain with `lengths` must be masked where it has ended.

    What has no mask at all is read at other arguments too, those of later calls: they
    may be shorter.

    :param program: the program.
    :param structure: its wiring.
    :param concrete: whether its arguments are those of the call. If not, they may have
        a mask and lengths that have nothing to do with each other.
    :raises ValueError: naming the chain, the site and the mask.
    """
    chains = [name for name, local in structure.locals.items() if local.chain]
    sites = sample_sites(plain_run(program, structure)) if chains else {}
    for chain in chains:
        if lengths_of(sites[chain].fn) is None:
            continue
        for name in _dependents(structure, chain):
            count = partial(_padded, structure, chain, name)
            bare = sites[name].mask is None
            found = (concrete or bare) and count(program)
            if found or (bare and elsewhere(program, count)):
                raise _not_masked(sites[chain], sites[name])


def _dependents(structure: Structure, chain: str) -> list[str]:
    """The sites that depend on a chain, in program order."""
    found = [f.site for f in structure.factors if chain in scope(structure, f)]
    found += [n for n, used in structure.likelihoods.items() if chain in used]
    return [name for name in dict.fromkeys(found) if name != chain]


def _padded(structure: Structure, chain: str, name: str, program: Program) -> Array:
    """How many positions of a site count where its chain has ended."""
    sites = sample_sites(plain_run(program, structure))
    site, fn = sites[name], sites[chain].fn
    lengths = jnp.maximum(fn.lengths, 1)  # a first step always exists
    exists = jnp.arange(fn.event_shape[0]) < lengths[..., None]
    local, extent = extent_of(sites[chain]), extent_of(site)
    exists = jnp.broadcast_to(exists, local.positions)
    alike = extent.extra >= local.extra and is_at(local, extent)
    if alike and extent.positions[: exists.ndim] == local.positions:
        counts = jnp.asarray(True) if extent.mask is None else extent.mask
        return jnp.sum(~read_at(exists, local, extent, 0) & counts)
    # It has no axis of time as that of the chain is, but some of its steps perhaps:
    # what does it say to other values?
    zero = jnp.zeros_like(sites[chain].value)
    ended = jnp.reshape(~exists, exists.shape + (1,) * (zero.ndim - exists.ndim))
    values = random_globals_of(structure.priors, np.random.default_rng(0))

    def density(path: Array) -> Array:
        moved = plain_run(program, structure, {**values, chain: path})
        fn: Any = read_site(moved[name]).outer
        fn = at_positions(fn, extent.extra) or fn
        return fn.log_prob(site.value)

    found = density(zero), density(jnp.where(ended, 1, zero))
    return jnp.sum(~jnp.isclose(*found, equal_nan=True))


def _not_masked(chain: Site, site: Site) -> ValueError:
    steps = chain.fn.event_shape[0]
    says = "which has `lengths`,"
    masked = (
        "Normal(...).to_event(1).mask(exists).to_event(1) with exists = "
        f"jnp.arange({steps}) < lengths[:, None]"
    )
    if chain.ends is not None:
        says = "whose states are masked in a scan,"
        masked = "numpyro.handlers.mask(mask=t < lengths) around both has it in a step"
    return ValueError(
        f"Site '{site.name}': depends on chain '{chain.name}', {says} and counts at "
        "steps that do not exist. Accepted: a distribution that is masked there, as "
        f"{masked}."
    )
