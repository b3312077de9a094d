# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a program itself gives of the parameters of a Gaussian factor."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.program.assignments import at_each, by_states
from numpyro_svae.program.factors import GaussianFactor
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.probing import Prober, parameters
from numpyro_svae.program.sites import Site

__all__ = [
    "PARAMETERS",
    "known_moments",
    "known_noise",
    "known_regression",
    "linear_map",
]

PARAMETERS = {
    "value": ("loc", "covariance"),
    "initial": ("initial_loc", "initial_cov"),
    "transition": ("transition_matrix", "transition_cov"),
}


def known_regression(weight: Array, covariance: Array) -> ExpectedRegression:
    """Moments of a weight and a covariance that are known."""
    columns = weight.shape[-1]
    tril = jnp.linalg.cholesky(covariance)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
    excess = jnp.zeros((*weight.shape[:-2], columns, columns), weight.dtype)
    return ExpectedRegression(weight, covariance, excess, log_det)


def known_noise(
    prober: Prober, site: Site, picks: tuple[str, ...], states: int
) -> ExpectedRegression:
    """A covariance that the program gives, for each state of what picks from it.

    :param picks: the discrete sites that it depends on.
    :param states: number of axes for states that a factor has after its positions.
    """

    def read(assignment: dict[str, Any]) -> Array:
        values = {**prober.plain_values(), **assignment}
        return prober.read(values)[site.name]["covariance"]

    at = partial(at_each, site, event_dim=2)
    if picks:
        covariance = by_states(prober, picks, lambda a: at(read(a)), site.positions)
    else:
        covariance = read({})
        if covariance.ndim > 2:
            axes = tuple(range(-2 - states, -2))
            covariance = jnp.expand_dims(at(covariance), axes)
    return known_regression(jnp.zeros((*covariance.shape[:-1], 1)), covariance)


def known_moments(
    prober: Prober, site: Site, factor: GaussianFactor
) -> ExpectedRegression | None:
    """Moments of what the program gives of a factor's parameters; None of nothing."""
    source = factor.source
    holder = prober.holder(source.prior)
    if isinstance(holder, RegressionPrior):
        return None
    if holder is None or not holder.weights:
        return _known(prober, site, factor)
    if holder.noise is not None:
        return None
    if factor.role != "value":
        cov = parameters(site)[PARAMETERS[factor.role][1]]
        return known_regression(jnp.zeros((*cov.shape[:-1], 1)), cov)
    selectors = () if source.selector is None else (source.selector,)
    picks = selectors if holder.by_state else ()
    return known_noise(prober, site, picks, len(selectors))


def _known(prober: Prober, site: Site, factor: GaussianFactor) -> ExpectedRegression:
    """Parameters that are given, by state if a discrete site picks them."""
    selector, names = factor.source.selector, PARAMETERS[factor.role]
    if selector is None:
        weight, covariance = (parameters(site)[name] for name in names)
    else:
        weight, covariance = (prober.by_state(site.name, n, selector) for n in names)
        if factor.role != "transition":
            weight = jnp.moveaxis(weight, 0, -2)
        else:
            weight = jnp.moveaxis(weight, 0, -3)
        covariance = jnp.moveaxis(covariance, 0, -3)
    return known_regression(
        weight if factor.role == "transition" else weight[..., None], covariance
    )


def linear_map(
    prober: Prober, site: Site, parent: str
) -> tuple[ExpectedRegression, Array]:
    """A known linear map of a parent, and the offset that is added to it."""

    def loc(value: Array) -> Array:
        return prober.read(prober.plain_but(parent, value))[site.name]["loc"]

    basis = jnp.eye(prober.locals[parent].size)
    offset = loc(jnp.zeros(()))
    shifts = jax.vmap(lambda row: loc(row) - offset)(basis)
    first = (slice(None),) + (0,) * (shifts.ndim - 2)
    known = known_regression(shifts[first].T, parameters(site)["covariance"])
    return known, offset
