# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognises Gaussian sites that are linear regressions."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.factors import GaussianFactor
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.probing import Found, Prober, align
from numpyro_svae.program.sites import Site

__all__ = ["find_regression", "is_linear", "read_members"]


def read_members(site: Site, plain: dict[str, Any]) -> Array:
    """Which member of a batch each position picked.

    :param site: the site.
    :param plain: its parameters at the plain values of its prior.
    """
    members = jnp.round(plain["covariance"][..., 0, 0]).astype(jnp.int32) - 1
    return jnp.broadcast_to(members, site.positions)


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
    :param selector: the categorical site that they depend on.
    :param parent: the Gaussian site that they depend on.
    """
    gathered = prior.components is not None and selector is None
    if selector is not None and prior.components is None:
        return None

    def regressor(values: dict[str, Array]) -> Array:
        return prober.regressor(site.name, prior.columns, values)

    matrix, uniform = None, True
    if parent is not None:
        matrix, uniform = prober.parent_map(site.name, parent, regressor)
    origin = np.asarray(regressor({}))
    plain = prober.read(prober.plain_values())[site.name]
    members = np.asarray(read_members(site, plain)) if gathered else None

    def holds(values: dict[str, Any], found: Found) -> bool:
        u = origin
        if parent is not None and matrix is not None:
            extra = prober.sites[parent].extra
            u = u + align(values[parent] @ matrix.T, site, extra, 1)
        index = members
        if selector is not None:
            index = align(values[selector], site, prober.sites[selector].extra)
        weight, cov = prior.pair(values)
        if index is not None:
            weight, cov = weight[index], cov[index]
        loc = np.squeeze(weight @ u[..., None], -1)
        return found.agrees(site.name, loc=loc, covariance=cov)

    if not (uniform and prober.holds(holds)):
        return None
    return GaussianFactor(site.name, prior.name, selector, gathered, parent, matrix)


def is_linear(prober: Prober, site: Site, parent: str) -> bool:
    """Whether a site's location is affine in its parent, alike at all positions."""

    def read(values: dict[str, Array]) -> Array:
        return prober.read({**prober.plain_values(), **values})[site.name]["loc"]

    matrix, uniform = prober.parent_map(site.name, parent, read)
    origin, extra = np.asarray(read({})), prober.sites[parent].extra

    def holds(values: dict[str, Any], found: Found) -> bool:
        shift = align(values[parent] @ matrix.T, site, extra, 1)
        return found.agrees(site.name, loc=origin + shift)

    return uniform and prober.holds(holds)
