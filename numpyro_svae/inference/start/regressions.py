# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where weights and noises start: at regressions on what is shown of both sides."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import RegressionNatural
from numpyro_svae.families.matrices import transpose
from numpyro_svae.families.regression import RegressionStandard
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.start.counts import weighted
from numpyro_svae.inference.start.values import shown_values, values_of
from numpyro_svae.program.run.positions import read_at
from numpyro_svae.program.structure.factors import Factor, GaussianFactor

__all__ = ["by_assignment", "regressions", "residual_regressions", "transitions"]

_LEAST_NOISE = 0.01  # of the variance of what is seen, where the regressors are guessed


def regressions(
    prior: RegressionNatural,
    factor: Factor,
    factors: ExpectedFactors,
    members: Array,
    paths: dict[str, Array],
) -> RegressionNatural | None:
    """The prior with regressions of the responses of a factor.

    :param prior: with batch ``(K,)`` or none.
    :param factor: the factor.
    :param factors: all of them.
    :param members: memberships ``(*positions, K)``, or ones for the only member.
    :param paths: estimates of latent vectors and paths.
    :return: None if either side is unknown.
    """
    shown = _shown(factor, factors, members, paths)
    if shown is None:
        return None
    v, u, share, least = shown
    total = _sums(v, u, share)
    total = RegressionNatural(total.vv + least, total.vu, total.uu, total.df)
    return prior + _as_batch(prior, total)


def residual_regressions(
    prior: RegressionStandard,
    factor: Factor,
    factors: ExpectedFactors,
    members: Array,
    paths: dict[str, Array],
) -> RegressionStandard | None:
    """The same from and to standard parameters, of which far data leave digits.

    A fit is found first, and then the regression of what it leaves.
    """
    shown = _shown(factor, factors, members, paths)
    if shown is None:
        return None
    v, u, share, least = shown
    v, u = (x.reshape(-1, x.shape[-1]) for x in (v, u))
    share = share.reshape(-1, share.shape[-1])
    loc, tril, scale_tril, df = prior
    batch = (share.shape[-1],)
    own = jnp.broadcast_to(loc, (*batch, *loc.shape[-2:]))
    before = jnp.broadcast_to(tril @ transpose(tril), (*batch, *tril.shape[-2:]))
    uu = before + jnp.einsum("nk,ni,nj->kij", share, u, u)

    def fit(left: Array, old: Array) -> Array:
        """Weights of what is left, ``(N, K, D)``, if the prior has others."""
        vu = old @ before + jnp.einsum("nk,nki,nj->kij", share, left, u)
        return transpose(jnp.linalg.solve(uu, transpose(vu)))

    rough = fit(jnp.broadcast_to(v[:, None], (len(v), *batch, v.shape[-1])), own)
    left = v[:, None] - jnp.einsum("kij,nj->nki", rough, u)
    found = fit(left, own - rough)
    left = left - jnp.einsum("kij,nj->nki", found, u)
    moved = own - rough - found
    scatter = scale_tril @ transpose(scale_tril) + least
    scatter = scatter + moved @ before @ transpose(moved)
    scatter = scatter + jnp.einsum("nk,nki,nkj->kij", share, left, left)
    result = RegressionStandard(
        rough + found,
        jnp.linalg.cholesky(uu),
        jnp.linalg.cholesky(scatter),
        df + jnp.sum(share, 0),
    )
    return result if df.ndim else jax.tree.map(lambda leaf: leaf[0], result)


def _shown(
    factor: Factor, factors: ExpectedFactors, members: Array, paths: dict[str, Array]
) -> tuple[Array, Array, Array, Array] | None:
    """Responses, regressors, how much each counts, and scatter that there is at least.

    :return: None if either side is unknown.
    """
    values = values_of(factors, factor, paths)
    data = factors.bound.regressions[factor.site, factor.role]
    if values is None:
        return None
    extent = factors.extent(factor)
    v = shown_values(factors, factor, values)
    w = jnp.broadcast_to(data.regressor, (*v.shape[:-1], data.regressor.shape[-1]))
    shown = _parents(factor, factors, paths)
    if shown is None:
        return None
    parent_map, x = shown
    if parent_map is not None:
        w = w + (parent_map @ x[..., None])[..., 0]
    share, eye = weighted(members, extent), jnp.eye(v.shape[-1])
    if by_assignment(factor):
        v, u = data.to_block_by_state(v, w, len(factor.selectors))
        share = share[..., None]
        holder = factors.structure.holder(factor)
        if holder.components is not None:
            share = share * jnp.eye(holder.components)
    else:
        v, u = data.to_block(v, w, len(factor.selectors))
    if parent_map is None:
        return v, u, share, 0.0 * eye
    spread = share * jnp.sum(_centred(v, share) ** 2, -1)[..., None]
    spread = jnp.sum(spread.reshape(-1, share.shape[-1]), 0) / v.shape[-1]
    return v, u, share, _LEAST_NOISE * spread[:, None, None] * eye


def by_assignment(factor: Any) -> bool:
    """Whether regressors of a factor differ between the states of its selectors, so
    that memberships are of these."""
    return factor.beside.all_by_state and not factor.source.gathered


def transitions(
    prior: RegressionNatural,
    factor: GaussianFactor,
    factors: ExpectedFactors,
    members: Array,
    path: Array,
) -> RegressionNatural:
    """The prior with regressions of the states of a path on those before them."""
    inputs, extent = factors.site(factor.site).fn.inputs, factors.extent(factor)
    inputs = jnp.broadcast_to(inputs, (*extent.positions, inputs.shape[-1]))
    path = jnp.broadcast_to(path, (*extent.batch_shape, *path.shape[-2:]))
    w = jnp.concatenate([path[..., :-1, :], inputs], -1)
    data = factors.bound.regressions[factor.site, factor.role]
    later = path[..., 1:, :]
    later = later if factor.support is None else factor.support.seen_vector(later)
    v, u = data.to_block(later, w, len(factor.selectors))
    total = _sums(v, u, weighted(members, extent))
    return prior + _as_batch(prior, total)


def _parents(
    factor: Factor, factors: ExpectedFactors, paths: dict[str, Array]
) -> tuple[Array | None, Array] | None:
    """How the latent regressors are placed, and estimates of them side by side."""
    extent = factors.extent(factor)
    parent_map = factors.bound.regressions[factor.site, factor.role].parent_map
    if not factor.parents:
        return None, jnp.zeros(())
    if parent_map is None or not all(name in paths for name in factor.parents):
        return None
    parts = []
    for name in factor.parents:
        found = read_at(paths[name], factors.extent(name), extent, 1)
        parts.append(jnp.broadcast_to(found, (*extent.positions, found.shape[-1])))
    return parent_map, jnp.concatenate(parts, -1)


def _sums(v: Array, u: Array, share: Array) -> RegressionNatural:
    """Statistics of the members of each component."""
    count = share.shape[-1]
    v, u = v.reshape(-1, v.shape[-1]), u.reshape(-1, u.shape[-1])
    share = share.reshape(-1, count)

    def products(x: Array, y: Array) -> Array:
        return jnp.einsum("nk,ni,nj->kij", share, x, y)

    return RegressionNatural(
        products(v, v), products(v, u), products(u, u), jnp.sum(share, 0)
    )


def _centred(v: Array, share: Array) -> Array:
    weight = jnp.sum(share, -1, keepdims=True)
    axes = tuple(range(v.ndim - 1))
    return v - jnp.sum(weight * v, axes) / jnp.maximum(jnp.sum(weight), 1e-30)


def _as_batch(prior: RegressionNatural, total: RegressionNatural) -> RegressionNatural:
    if prior.batch_shape:
        return total
    return jax.tree.map(lambda leaf: leaf[0], total)
