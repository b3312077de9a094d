# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where the global posteriors start.

Components are spread over the data (k-means++ seeding and a few Lloyd steps) so that
none dies before it has been used; loadings start at principal directions, which breaks
their symmetry; dynamics start stable and slow. Each start is the prior updated by
pseudo-observations, so that it is in the domain of its family whatever the data.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import Array, lax, random
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_svae.families import (
    DirichletNatural,
    NaturalParameters,
    RegressionNatural,
)
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.binding import Bound
from numpyro_svae.program.factors import (
    DiscreteFactor,
    Factor,
    GaussianFactor,
    Structure,
)
from numpyro_svae.program.places import Place, place_of
from numpyro_svae.program.sites import Site

__all__ = ["initial_natural", "natural_of"]

_LLOYD_STEPS = 10
_PSEUDO_STEPS = 100.0
_DECAY = 0.95
_HORIZON = 64
_TURN = 0.1
_LARGEST_RADIUS = 1.1


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
    for factor in structure.factors:
        if factor.source.prior != name:
            continue
        site = bound.sites[factor.site]
        place = place_of(site, factor.role)
        if isinstance(factor, DiscreteFactor):
            return _spread_counts(prior, place)
        if isinstance(factor, GaussianFactor):
            if factor.role == "transition" and not site.observed:
                return _slow_dynamics(key, prior, site.fn.event_shape[-1])
            values = _values_of(factor, site, bound, potentials)
            if values is not None:
                label = structure.labels.get(str(factor.source.selector))
                labels = None if label is None else bound.sites[label]
                return _fit(key, prior, factor, place, bound, values, labels)
    return prior


def natural_of(given: dist.Distribution | NaturalParameters) -> NaturalParameters:
    """Natural parameters of a distribution that a user gave as a start."""
    if isinstance(given, NaturalParameters):
        return given
    if isinstance(given, dist.Dirichlet):
        return DirichletNatural(given.concentration)
    return given.natural_parameters


def _spread_counts(prior: DirichletNatural, place: Place) -> DirichletNatural:
    """Counts of all data, divided as the prior expects."""
    rows = math.prod(prior.batch_shape)
    count = math.prod(place.positions) * place.scale / rows
    total = jnp.sum(prior.concentration, -1, keepdims=True)
    return DirichletNatural(prior.concentration * (1.0 + count / total))


def _slow_dynamics(key: Array, prior: RegressionNatural, dim: int) -> RegressionNatural:
    """The prior mean if it says anything and is stable, else a slow decay to zero.

    Members of a batch decay each with a small rotation of its own, so that the states
    that pick them differ.
    """
    standard = prior.to_standard()
    square = standard.loc[..., :dim]
    many = jnp.linalg.matrix_power(square, _HORIZON)  # Gelfand: |F^n|^(1/n) -> radius
    radius = jnp.linalg.norm(many, axis=(-2, -1)) ** (1 / _HORIZON)
    turn = jnp.zeros((dim, dim))
    if prior.batch_shape:
        turn = _TURN * random.normal(key, (*prior.batch_shape, dim, dim))
        turn = turn - jnp.swapaxes(turn, -1, -2)
    decay = _DECAY * jax.scipy.linalg.expm(turn)
    slow = jnp.zeros_like(standard.loc).at[..., :dim].set(decay)
    keep = (radius > 0) & (radius <= _LARGEST_RADIUS)
    loc = jnp.where(keep[..., None, None], standard.loc, slow)
    columns = prior.uu + _PSEUDO_STEPS * jnp.eye(loc.shape[-1])
    grow = jnp.sqrt((prior.df + _PSEUDO_STEPS) / prior.df)[..., None, None]
    return RegressionNatural.from_standard(
        loc, columns, grow * standard.scale_tril, prior.df + _PSEUDO_STEPS
    )


def _values_of(
    factor: Factor,
    site: Site,
    bound: Bound,
    potentials: dict[str, Any],
) -> Array | None:
    """Data of a factor's site: what was observed or what the network says of it."""
    if site.observed:
        return bound.regressions[factor.site, factor.role].value
    potential: GaussianPotential | None = potentials.get(site.name)
    if potential is None or factor.role != "value":
        return None
    precision = potential.full_precision()
    ridge = 1e-6 * jnp.eye(precision.shape[-1], dtype=precision.dtype)
    loc = jnp.linalg.solve(precision + ridge, potential.info_vector[..., None])
    return loc[..., 0]


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
    if factor.parent_map is not None and factor.source.selector is None:
        return _loadings(prior, v, u, weight, factor.parent_map, place.scale)
    components = prior.batch_shape[0] if prior.batch_shape else 1
    if data.members is not None:
        member = jax.nn.one_hot(data.members.reshape(-1), components)
    else:
        known = _known_members(labels, place, components, v.dtype)
        member = _spread_components(key, v, weight, components, known)
    shares = member * (weight * place.scale)[:, None]
    seen = RegressionNatural.observe(v[:, None], u[:, None], shares)
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, 0), seen)
    if not prior.batch_shape:
        total = jax.tree.map(lambda leaf: leaf[0], total)
    return prior + total


def _known_members(
    labels: Site | None, place: Place, count: int, dtype: Any
) -> Array | None:
    """One-hot memberships ``(N, K)`` of the positions with a label; zeros elsewhere."""
    if labels is None or labels.mask is None:
        return None
    known = jax.nn.one_hot(labels.value, count, dtype=dtype)
    known = jnp.where(labels.mask[..., None], known, 0.0)
    return jnp.broadcast_to(known, (*place.positions, count)).reshape(-1, count)


def _spread_components(
    key: Array, v: Array, weight: Array, count: int, known: Array | None
) -> Array:
    """One-hot memberships ``(N, K)`` from k-means++ and a few Lloyd steps.

    Positions with a known member keep it, and their means are the first centres.
    """
    seeds = random.split(key, count)
    labelled = jnp.zeros((len(v), count), v.dtype) if known is None else known
    sizes = jnp.sum(labelled * weight[:, None], 0)
    means = (labelled * weight[:, None]).T @ v / jnp.maximum(sizes, 1e-30)[:, None]
    given = sizes > 0
    first = v[random.categorical(seeds[0], jnp.log(weight + 1e-30))]
    first = jnp.where(jnp.any(given), means[jnp.argmax(given)], first)
    centres = jnp.where(given[:, None], means, first)

    def distances(centres: Array) -> Array:
        cross = v @ centres.T
        return jnp.sum(v**2, -1)[:, None] - 2 * cross + jnp.sum(centres**2, -1)

    def seed(index: Array, centres: Array) -> Array:
        nearest = jnp.maximum(jnp.min(distances(centres), -1), 0.0) * weight
        chosen = v[random.categorical(seeds[index], jnp.log(nearest + 1e-30))]
        return centres.at[index].set(jnp.where(given[index], centres[index], chosen))

    def member(centres: Array) -> Array:
        nearest = jnp.argmin(distances(centres), -1)
        own = jax.nn.one_hot(nearest, count, dtype=v.dtype)
        return jnp.where(jnp.any(labelled > 0, -1, keepdims=True), labelled, own)

    def lloyd(_: Array, centres: Array) -> Array:
        share = member(centres) * weight[:, None]
        size = jnp.sum(share, 0)[:, None]
        return jnp.where(size > 0, share.T @ v / jnp.maximum(size, 1e-30), centres)

    centres = lax.fori_loop(1, count, seed, centres)
    return member(lax.fori_loop(0, _LLOYD_STEPS, lloyd, centres))


def _loadings(
    prior: RegressionNatural,
    v: Array,
    u: Array,
    weight: Array,
    parent_map: np.ndarray,
    scale: Array | float,
) -> RegressionNatural:
    """Principal directions of what the known regressors leave unexplained."""
    known = jax.tree.map(
        lambda leaf: jnp.sum(leaf, 0), RegressionNatural.observe(v, u, weight)
    )
    columns = u.shape[-1]
    ridge = known.uu + 1e-3 * jnp.eye(columns)
    offset = jnp.linalg.solve(ridge, known.vu.T).T
    residual = (v - u @ offset.T) * weight[:, None]
    count = jnp.maximum(jnp.sum(weight), 1.0)
    covariance = residual.T @ residual / count
    values, vectors = jnp.linalg.eigh(covariance)
    state = parent_map.shape[1]
    rank = min(state, v.shape[-1])
    loading = vectors[:, ::-1][:, :rank] * jnp.sqrt(jnp.maximum(values[::-1][:rank], 0))
    loading = jnp.pad(loading, ((0, 0), (0, state - rank)))
    weight_matrix = offset + loading @ np.linalg.pinv(parent_map)
    left = jnp.trace(covariance) - jnp.sum(loading**2)
    noise = jnp.maximum(left, 0.01 * jnp.trace(covariance)) / v.shape[-1]
    steps = count * scale
    scale_tril = prior.to_standard().scale_tril
    spread = scale_tril @ scale_tril.T + steps * noise * jnp.eye(v.shape[-1])
    return RegressionNatural.from_standard(
        weight_matrix,
        prior.uu + steps * jnp.eye(columns),
        jnp.linalg.cholesky(spread),
        prior.df + steps,
    )
