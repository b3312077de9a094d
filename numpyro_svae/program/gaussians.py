# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads Gaussian sites and chains."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from jax import Array
import numpy as np

from numpyro_svae.program.conditionals import find_gaussian
from numpyro_svae.program.factors import (
    Factor,
    GaussianConditional,
    GaussianFactor,
    Source,
)
from numpyro_svae.program.joins import Join
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.regressions import (
    covariance_members,
    find_regression,
    is_linear,
    scanned_inputs,
)
from numpyro_svae.program.sites import Site, gaussian_view
from numpyro_svae.program.sources import find_source
from numpyro_svae.program.wiring import Wiring, not_conjugate

__all__ = ["read_chain", "read_gaussian", "read_known_regression"]


def read_chain(wiring: Wiring, site: Site) -> list[Factor]:
    """The factors of a Gaussian chain: its first state, and its steps."""
    return [
        _chain_part(wiring, site, "initial", "initial_loc", "initial_cov"),
        _chain_part(wiring, site, "transition", "transition_matrix", "transition_cov"),
    ]


def _chain_part(
    wiring: Wiring, site: Site, role: str, loc: str, cov: str
) -> GaussianFactor:
    used = wiring.needs[site.name][loc] | wiring.needs[site.name][cov]
    accepted = (
        "the weight and the covariance of one global block or (of one "
        "LinearGaussianChain) of independent ones, or fixed values; of a "
        "batch of either, the member that one discrete site picks (as in "
        "F[z[..., 1:]], or F[z][..., None, :, :] for a state that lasts)"
    )
    if not used:
        return GaussianFactor(site.name, Source(), role)
    blocks = {wiring.block_of[n].name for n in used if n in wiring.block_of}
    others = wiring.ordered(used, True)
    holder = wiring.holder(site, role, blocks)
    known = blocks and holder is None
    if known or len(others) > 1 or len(used) > len(others) + _count(wiring, used):
        raise not_conjugate(site, f"({loc}, {cov})", used, accepted)
    names: tuple[str, ...] = (loc, cov)
    if isinstance(holder, Join):
        names = _held(holder, (loc, cov))
        given = [n for n in (loc, cov) if n not in names]
        picked = any(wiring.needs[site.name][n] & set(others) for n in given)
        gathered = holder.components is not None and not others
        if picked or gathered or _is_scanned(wiring, site):
            raise not_conjugate(site, f"({loc}, {cov})", used, accepted)

    def parts(values: dict[str, Any]) -> tuple[Any, ...]:
        if holder is None:
            return ()
        weight, covariance = holder.pair(values)
        if weight is not None and role == "initial":
            weight = weight[..., 0]
        return tuple(part for part in (weight, covariance) if part is not None)

    source = find_source(
        wiring.prober,
        site,
        role,
        names,
        (holder, others[0] if others else None),
        parts,
        lambda plain: covariance_members(plain[cov]),
        partial(_with_offset, scanned_inputs(wiring.prober, site, holder, role)),
    )
    if source is None:
        raise not_conjugate(site, f"({loc}, {cov})", used, accepted)
    return GaussianFactor(site.name, source, role)


def _count(wiring: Wiring, used: Collection[str]) -> int:
    """How many of some latent sites are in global blocks."""
    return sum(name in wiring.block_of for name in used)


def _held(join: Join, names: tuple[str, str]) -> tuple[str, ...]:
    """Which of the weight and the covariance blocks hold."""
    held = bool(join.weights), join.noise is not None
    return tuple(name for name, own in zip(names, held) if own)


def _is_scanned(wiring: Wiring, site: Site) -> bool:
    return any(site.name in scan.chains for scan in wiring.prober.program.scans)


def _with_offset(inputs: Array | None, parts: list[Any]) -> list[Any]:
    """Transitions with the effect of the inputs as a column of its own."""
    if inputs is None:
        return parts
    weight, covariance = parts
    dim = weight.shape[-2]
    offset = weight[..., dim:] @ np.asarray(inputs)[..., None]
    batch = offset.shape[:-2]
    matrix = np.broadcast_to(weight[..., :dim], (*batch, dim, dim))
    return [np.concatenate([matrix, offset], -1), covariance]


def read_gaussian(
    wiring: Wiring, site: Site, blocks: set[str], parents: set[str]
) -> GaussianFactor | GaussianConditional:
    """The factor of a Gaussian site that is latent or depends on a global block.

    :param blocks: the global blocks that it depends on.
    :param parents: the local sites that it depends on.
    """
    accepted = (
        "loc = F u and covariance = Sigma of one global block, or of independent "
        "ones (Normal means and weights, of which those of several blocks are added "
        "up; a Gamma, InverseGamma or InverseWishart noise), with u affine in "
        "latent Gaussian sites, picked by at most one latent discrete site; a "
        "latent chain over time is one LinearGaussianChain, or one site for each "
        "step"
    )
    selectors = wiring.ordered(parents, True)
    states = wiring.ordered(parents, False)
    prior = wiring.holder(site, "value", blocks)
    if blocks and prior is None:
        raise not_conjugate(site, "(loc, covariance)", blocks | parents, accepted)
    factor: GaussianFactor | GaussianConditional | None = None
    simple = len(selectors) <= 1 and len(states) <= 1
    if simple and (site.observed or not states):
        factor = _regression(wiring, site, prior, selectors, states)
    if factor is None:
        factor = find_gaussian(wiring.prober, site, prior, states, selectors)
    if factor is None:
        raise not_conjugate(site, "(loc, covariance)", blocks | parents, accepted)
    return factor


def _regression(
    wiring: Wiring,
    site: Site,
    prior: RegressionPrior | Join | None,
    selectors: tuple[str, ...],
    states: tuple[str, ...],
) -> GaussianFactor | None:
    """A Gaussian site with one parent and one selector at most."""
    selector = selectors[0] if selectors else None
    if prior is not None:
        parent = states[0] if states else None
        return find_regression(wiring.prober, site, prior, selector, parent)
    if selector is None:
        return GaussianFactor(site.name)
    names = ("loc", "covariance")
    options = (None, selector)
    source = find_source(wiring.prober, site, "value", names, options, _none, _none)
    return None if source is None else GaussianFactor(site.name, source)


def read_known_regression(
    wiring: Wiring, site: Site, parents: set[str], unspoken: set[str]
) -> GaussianFactor | GaussianConditional:
    """A likelihood that is linear and Gaussian in states with no potential."""
    parent = sorted(unspoken)[0]
    if gaussian_view(site) is not None:
        free = parent not in wiring.needs[site.name]["covariance"]
        if parents == {parent} and free and is_linear(wiring.prober, site, parent):
            return GaussianFactor(site.name, parent=parent)
        states = wiring.ordered(parents, False)
        selectors = wiring.ordered(parents, True)
        factor = find_gaussian(wiring.prober, site, None, states, selectors)
        if factor is not None:
            return factor
    raise ValueError(
        f"Site '{parent}': latent, observed through site '{site.name}' "
        f"({type(site.fn).__name__}), and neither conjugate to it nor given a "
        "potential. Return a GaussianPotential for it from the recognition "
        "function, or make the observation linear and Gaussian in it."
    )


def _none(values: dict[str, Any]) -> tuple[Any, ...]:
    """Nothing comes from a global block."""
    return ()
