# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognises Gaussian sites that are linear regressions."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.factors import GaussianFactor, Source
from numpyro_svae.program.places import place_of, read_at
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.probing import Found, Prober
from numpyro_svae.program.sites import Site
from numpyro_svae.program.sources import picked, sources_of

__all__ = ["covariance_members", "find_regression", "is_linear", "scanned_inputs"]


def covariance_members(covariance: Array) -> Array:
    """Which members of a batch are seen in covariances at the plain values."""
    return jnp.round(covariance[..., 0, 0]).astype(jnp.int32) - 1


def find_regression(
    prober: Prober,
    site: Site,
    prior: RegressionPrior,
    selector: str | None,
    parent: str | None,
) -> GaussianFactor | None:
    """The factor ``N(v; F u, Sigma)``, if the program agrees with it at random points.

    :param prober: runs the program.
    :param site: the site of v.
    :param prior: the block that its parameters depend on.
    :param selector: the discrete site that they depend on.
    :param parent: the Gaussian site that they depend on.
    """

    def regressor(values: dict[str, Array]) -> Array:
        return prober.regressor(site.name, prior.columns, values)

    matrix, uniform = None, True
    if parent is not None:
        matrix, uniform = prober.parent_map(site.name, parent, regressor)
    place, origin = place_of(site), np.asarray(regressor({}))
    plain = prober.read(prober.plain_values())[site.name]

    def agrees(source: Source, values: dict[str, Any], found: Found) -> bool:
        u = origin
        if parent is not None and matrix is not None:
            local = place_of(prober.sites[parent])
            u = u + read_at(values[parent] @ matrix.T, local, place, 1)
        weight, cov = prior.pair(values)
        if source.selector is not None:
            index = picked(prober, place, source, values)
            weight, cov = weight[index], cov[index]
        elif source.gathered:
            index = covariance_members(plain["covariance"])
            weight, cov = weight[index], cov[index]
        loc = np.squeeze(weight @ u[..., None], -1)
        return found.agrees(site.name, loc=loc, covariance=cov)

    for source in sources_of(prober, place, prior, selector):
        if uniform and prober.holds(partial(agrees, source)):
            return GaussianFactor(site.name, source, parent=parent, parent_map=matrix)
    return None


def is_linear(prober: Prober, site: Site, parent: str) -> bool:
    """Whether a site's location is affine in its parent, alike at all positions."""

    def read(values: dict[str, Array]) -> Array:
        return prober.read({**prober.plain_values(), **values})[site.name]["loc"]

    matrix, uniform = prober.parent_map(site.name, parent, read)
    origin, local = np.asarray(read({})), place_of(prober.sites[parent])

    def holds(values: dict[str, Any], found: Found) -> bool:
        shift = read_at(values[parent] @ matrix.T, local, place_of(site), 1)
        return found.agrees(site.name, loc=origin + shift)

    return uniform and prober.holds(holds)


def scanned_inputs(
    prober: Prober, site: Site, prior: Any, role: str = "transition"
) -> Array | None:
    """The inputs ``(..., T - 1, A)`` of a chain that a scan spells; None without any.

    A scan shows their effect on the mean of a state, and so the inputs themselves where
    the weights of the block are zero but for one.

    :param site: the site of the chain.
    :param prior: the block that holds its transitions.
    """
    chains = {n: c for scan in prober.program.scans for n, c in scan.chains.items()}
    moved = site.name in chains and chains[site.name].moved
    if not moved or role != "transition" or not isinstance(prior, RegressionPrior):
        return None

    def show(column: Array) -> Array:
        values = prober.plain_values(column)
        return prober.read(values)[site.name]["transition_matrix"][..., 0, -1]

    dim = prober.locals[site.name].size
    return jnp.moveaxis(jax.vmap(show)(jnp.arange(dim, prior.columns)), 0, -1)
