# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the global posteriors start.

Components are spread over the data (k-means++ seeding and a few Lloyd steps) so that
none dies before it has been used; loadings start at principal directions, which breaks
their symmetry; dynamics start stable and slow, or, if a discrete chain picks them, as
regressions in regions of the data. Each start is the prior updated by
pseudo-observations, so that it is in the domain of its family whatever the data.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import (
    NaturalParameters,
    RegressionNatural,
)
from numpyro_svae.inference.clustering import spread_components
from numpyro_svae.inference.initial_counts import (
    fit_statistics,
    known_members,
    labels_of,
    spread_counts,
)
from numpyro_svae.inference.initial_dynamics import slow_dynamics, switching_dynamics
from numpyro_svae.inference.initial_joins import (
    of_joint,
    scale_of_weights,
    stand_in,
)
from numpyro_svae.inference.initial_loadings import loadings
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.binding import Bound
from numpyro_svae.program.factors import (
    DiscreteFactor,
    Factor,
    GaussianFactor,
    StatisticsFactor,
    Structure,
)
from numpyro_svae.program.gaussian_prior import GaussianPrior
from numpyro_svae.program.places import Place, place_of
from numpyro_svae.program.sites import Site

__all__ = ["initial_natural"]


def initial_natural(
    key: Array,
    name: str,
    structure: Structure,
    bound: Bound,
    potentials: dict[str, Any],
) -> NaturalParameters:
    """Natural parameters that one global block starts at.

    :param key: random key.
    :param name: the block.
    :param structure: wiring of the program.
    :param bound: the program with its data.
    :param potentials: what the recognition function says at the start.
    """
    prior: Any = bound.priors[name]
    block: Any = structure.priors[name]
    for factor in structure.factors:
        if name not in structure.blocks_of(factor):
            continue
        place = place_of(bound.sites[factor.site], factor.role)
        if isinstance(factor, DiscreteFactor):
            return spread_counts(prior, place)
        if isinstance(factor, StatisticsFactor) and factor.source.selector is not None:
            return fit_statistics(key, prior, factor, structure, bound)
        if isinstance(factor, GaussianFactor):
            args = key, name, factor, place, structure, bound, potentials
            found = _weights_and_noise(*args)
            if found is not None:
                return found
    for weight in structure.priors.values():
        scaling = getattr(weight, "scaling", None)
        if isinstance(weight, GaussianPrior) and scaling and scaling.block == block:
            start = initial_natural(key, weight.name, structure, bound, potentials)
            return scale_of_weights(scaling.block, weight, start, bound.priors)
    return prior


def _weights_and_noise(
    key: Array,
    name: str,
    factor: GaussianFactor,
    place: Place,
    structure: Structure,
    bound: Bound,
    potentials: dict[str, Any],
) -> NaturalParameters | None:
    """Where a block of a Gaussian factor starts, alone or joined with others."""
    block: Any = structure.priors[name]
    join = structure.joins.get(str(factor.source.prior))
    if join is None:
        prior = block.whole(bound.priors[name])
    elif join.weights:
        known = bound.regressions[factor.site, factor.role].known
        prior = stand_in(join, bound.priors, known)
    else:
        return None
    start = _dynamics(key, prior, factor, place, structure, bound, potentials)
    if start is None:
        start = _regressions(key, prior, factor, place, structure, bound, potentials)
    if start is None or join is None:
        return None if start is None else block.of_whole(start)
    return of_joint(block, join, bound.priors, prior, start)


def _dynamics(
    key: Array,
    prior: RegressionNatural,
    factor: GaussianFactor,
    place: Place,
    structure: Structure,
    bound: Bound,
    potentials: dict[str, Any],
) -> RegressionNatural | None:
    """Where the transitions of a chain start that is latent or switches."""
    site: Any = bound.sites[factor.site]
    switches = bool(prior.batch_shape)
    if factor.role != "transition" or (site.observed and not switches):
        return None
    path = _path(key, structure, bound, site, potentials)
    if path is None or not switches:
        return slow_dynamics(key, prior, site.fn.event_shape[-1])
    weight = jnp.ones(()) if place.mask is None else 1.0 * place.mask
    return switching_dynamics(key, prior, path, site.fn.inputs, weight * place.scale)


def _regressions(
    key: Array,
    prior: RegressionNatural,
    factor: GaussianFactor,
    place: Place,
    structure: Structure,
    bound: Bound,
    potentials: dict[str, Any],
) -> RegressionNatural | None:
    """The prior with regressions on what is seen of a site, or said of it."""
    values = _values_of(factor, bound.sites[factor.site], bound, potentials)
    if values is None:
        return None
    labels = labels_of(factor, structure, bound)
    return _fit(key, prior, factor, place, bound, values, labels)


def _path(
    key: Array,
    structure: Structure,
    bound: Bound,
    site: Site,
    potentials: dict[str, Any],
) -> Array | None:
    """An estimate of the path of a chain: what is seen of it, or said of it."""
    if site.observed:
        return site.value
    for factor in structure.factors:
        if not isinstance(factor, GaussianFactor) or factor.parent != site.name:
            continue
        name = factor.source.prior
        data = bound.regressions.get((factor.site, factor.role))
        if data is None or name is None or factor.source.selector is not None:
            continue
        if factor.parent_map is None:  # known weights
            continue
        weight = _weight(key, name, structure, bound, potentials)
        inverse = jnp.linalg.pinv(weight @ factor.parent_map)
        if data.members is not None:
            weight, inverse = weight[data.members], inverse[data.members]
        residual = data.value - _apply(weight, data.regressor)
        mask = bound.sites[factor.site].mask
        if mask is not None:
            residual = jnp.where(mask[..., None], residual, 0.0)
        return _apply(inverse, residual)
    return _said_mean(potentials.get(site.name))


def _weight(
    key: Array, name: str, structure: Structure, bound: Bound, potentials: dict
) -> Array:
    """The mean weight that a block or a join starts at."""

    def start(block: str) -> Any:
        return initial_natural(key, block, structure, bound, potentials)

    join = structure.joins.get(name)
    if join is None:
        return start(name).to_standard().loc
    means = [block.moments(start(block.name)).mean for block in join.weights]
    batch = jnp.broadcast_shapes(*(mean.shape[:-2] for mean in means))
    means = [jnp.broadcast_to(m, (*batch, *m.shape[-2:])) for m in means]
    return jnp.concatenate(means, -1)


def _apply(matrix: Array, vector: Array) -> Array:
    return jnp.einsum("...ij,...j->...i", matrix, vector)


def _said_mean(potential: GaussianPotential | None) -> Array | None:
    """The means of potentials; nearly zero where nothing is said."""
    if potential is None:
        return None
    precision = potential.full_precision()
    ridge = 1e-6 * jnp.eye(precision.shape[-1], dtype=precision.dtype)
    loc = jnp.linalg.solve(precision + ridge, potential.info_vector[..., None])
    return loc[..., 0]


def _values_of(
    factor: Factor,
    site: Site,
    bound: Bound,
    potentials: dict[str, Any],
) -> Array | None:
    """Data of a factor's site: what was observed or what the network says of it."""
    if site.observed:
        return bound.regressions[factor.site, factor.role].value
    return _said_mean(potentials.get(site.name)) if factor.role == "value" else None


def _fit(
    key: Array,
    prior: RegressionNatural,
    factor: GaussianFactor,
    place: Place,
    bound: Bound,
    values: Array,
    labels: Site | None,
) -> RegressionNatural:
    data = bound.regressions[factor.site, factor.role]
    v = values.reshape(-1, values.shape[-1])
    u = data.regressor.reshape(-1, data.regressor.shape[-1])
    weight = jnp.ones(()) if place.mask is None else 1.0 * place.mask
    weight = jnp.broadcast_to(weight, place.positions).reshape(-1)
    v = jnp.where(weight[:, None] > 0, v, 0.0)
    if factor.parent_map is not None and not prior.batch_shape:
        return loadings(prior, v, u, weight, factor.parent_map, place.scale)
    components = prior.batch_shape[0] if prior.batch_shape else 1
    if data.members is not None:
        member = jax.nn.one_hot(data.members.reshape(-1), components)
    else:
        known = known_members(labels, place, components, v.dtype)
        member = spread_components(key, v, weight, components, known)
    if factor.parent_map is not None:
        each = partial(
            loadings, v=v, u=u, parent_map=factor.parent_map, scale=place.scale
        )
        own = (member * weight[:, None]).T
        return jax.vmap(lambda p, w: each(prior=p, weight=w))(prior, own)
    shares = member * (weight * place.scale)[:, None]
    seen = RegressionNatural.observe(v[:, None], u[:, None], shares)
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, 0), seen)
    if not prior.batch_shape:
        total = jax.tree.map(lambda leaf: leaf[0], total)
    return prior + total
