# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the factors of a program need of its data, read by running it once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import ExpectedRegression, NaturalParameters
from numpyro_svae.program.factors import GaussianFactor, Structure, TableFactor
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.probing import Prober, parameters
from numpyro_svae.program.regressions import read_members
from numpyro_svae.program.sites import Program, Site

__all__ = ["Bound", "BoundRegression", "bind"]


class BoundRegression(NamedTuple):
    """The data of one Gaussian factor ``N(v; F (U x + c), Sigma)``.

    :param known: the moments of (F, Sigma) where no prior holds them, with batch
        ``(*positions, [K])`` or less.
    :param value: v, of shape ``(*positions, D)``; meaningless for a latent site.
    :param regressor: c, of shape ``(*positions, M)``.
    :param members: which member of the prior's batch each position uses.
    """

    known: ExpectedRegression | None
    value: Array
    regressor: Array
    members: Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bound:
    """A program with its data.

    :param sites: the latent sites and those with conjugate factors, of one run.
    :param priors: natural parameters of the priors, by block.
    :param regressions: data of the Gaussian factors, by site.
    :param tables: log probabilities ``(*batch, K)`` of the table factors, by site.
    """

    sites: dict[str, Site]
    priors: dict[str, NaturalParameters]
    regressions: dict[str, BoundRegression]
    tables: dict[str, Array]

    def active(self, name: str, structure: Structure) -> bool:
        """Whether a factor's site counts: it is latent, or it has data."""
        return name in structure.locals or self.sites[name].observed


def bind(program: Program, structure: Structure, sites: dict[str, Site]) -> Bound:
    """Read what the factors need of the data.

    :param program: the program, with its parameters and plates fixed.
    :param structure: its wiring.
    :param sites: the sites of a run at the plain values (see :func:`plain_values`).
    :return: the program with its data.
    """
    prober = Prober(program, sites, structure.priors, structure.locals)
    priors = {name: prior.natural(sites) for name, prior in structure.priors.items()}
    kept = {n: s for n, s in sites.items() if n not in structure.likelihoods}
    bound = Bound(kept, priors, {}, {})
    for factor in structure.factors:
        if not bound.active(factor.site, structure):
            continue
        site = sites[factor.site]
        if isinstance(factor, TableFactor):
            bound.tables[factor.site] = _table(prober, site, factor)
        elif isinstance(factor, GaussianFactor) and factor.prior is not None:
            bound.regressions[factor.site] = _of_prior(prober, site, factor)
        elif isinstance(factor, GaussianFactor):
            bound.regressions[factor.site] = _known(prober, site, factor)
    return bound


def _table(prober: Prober, site: Site, factor: TableFactor) -> Array:
    def log_prob(state: Array) -> Array:
        values = _plain_but(prober, factor.selector, state)
        return prober.program.sites(values)[site.name].outer.log_prob(site.value)

    states = jnp.arange(prober.locals[factor.selector].size)
    return jnp.moveaxis(jax.vmap(log_prob)(states), 0, -1)


def _plain_but(prober: Prober, local: str, value: Array) -> dict[str, Array]:
    """The plain values, except for one local site that is the same everywhere."""
    zero = prober.sites[local].value
    return {**prober.plain_values(), local: jnp.zeros_like(zero) + value}


def _of_prior(prober: Prober, site: Site, factor: GaussianFactor) -> BoundRegression:
    prior = prober.priors[str(factor.prior)]
    columns = prior.columns if isinstance(prior, RegressionPrior) else 1
    if columns == 1:
        regressor = parameters(site)["loc"][..., :1]
    else:
        regressor = prober.regressor(site.name, columns, {})
    members = read_members(site, parameters(site)) if factor.gathered else None
    return BoundRegression(None, site.value, regressor, members)


def _known(prober: Prober, site: Site, factor: GaussianFactor) -> BoundRegression:
    if factor.parent is not None:
        return _known_with_parent(prober, site, factor.parent)
    selector = factor.selector
    if selector is None:
        found = parameters(site)
        loc, covariance = found["loc"], found["covariance"]
    else:

        def view(state: Array) -> tuple[Array, Array]:
            found = prober.read(_plain_but(prober, selector, state))[site.name]
            covariance = found["covariance"]
            shape = site.positions + covariance.shape[-2:]
            return found["loc"], jnp.broadcast_to(covariance, shape)

        states = jnp.arange(prober.locals[selector].size)
        loc, covariance = jax.vmap(view)(states)
        loc = jnp.moveaxis(loc, 0, -2)
        covariance = jnp.moveaxis(covariance, 0, -3)
    ones = jnp.ones((*site.positions, 1), loc.dtype)
    return BoundRegression(_exactly(loc[..., None], covariance), site.value, ones, None)


def _known_with_parent(prober: Prober, site: Site, parent: str) -> BoundRegression:
    """A known linear map of a parent; its offset is taken off the observation."""

    def loc(value: Array) -> Array:
        return prober.read(_plain_but(prober, parent, value))[site.name]["loc"]

    basis = jnp.eye(prober.locals[parent].size)
    offset = loc(jnp.zeros(()))
    shifts = jax.vmap(lambda row: loc(row) - offset)(basis)
    first = (slice(None),) + (0,) * (shifts.ndim - 2)
    known = _exactly(shifts[first].T, parameters(site)["covariance"])
    nothing = jnp.zeros((*site.positions, basis.shape[0]), offset.dtype)
    return BoundRegression(known, site.value - offset, nothing, None)


def _exactly(weight: Array, covariance: Array) -> ExpectedRegression:
    """Moments of a weight and a covariance that are known."""
    columns = weight.shape[-1]
    tril = jnp.linalg.cholesky(covariance)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
    excess = jnp.zeros((columns, columns), weight.dtype)
    return ExpectedRegression(weight, covariance, excess, log_det)
