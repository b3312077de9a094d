# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The data of Gaussian factors."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.program.bind.affine import Affine, View, read_affine
from numpyro_svae.program.bind.gathered import gathered_members
from numpyro_svae.program.priors.noise_priors import ExpectedNoise
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import GaussianFactor
from numpyro_svae.program.structure.probing import Prober

__all__ = ["BoundRegression", "bind_regression"]


class BoundRegression(NamedTuple):
    """The data of one Gaussian factor ``N(v; (K + F S) (U x + c), s Sigma)``.

    States, if the factor has any, are axes after those of the positions, of size one
    where it does not differ between them.

    :param value: v, of shape ``(*positions, D)``; meaningless for a latent site. An
        offset of it that is known is taken off.
    :param regressor: c, of shape ``(*positions, P)``; of a latent chain's transition,
        meaningless.
    :param parent_map: U, ``(*positions, P, Dx)``; None without parents.
    :param known: K, ``(*positions, *states, D, P)``; None if it is zero, and S is one.
    :param placement: S, ``(*positions, *states, M, P)``.
    :param scale: s, ``(*positions, *states)``; None if it is one.
    :param noise: the moments of Sigma where no block holds it.
    :param members: which member of the prior's batch each position uses.
    :param entries: which entries of v count, ``(*positions, D)``; None for all of them.
        Those that do not are zero.
    :param fixed: of a part of a chain, K in its rows without noise, ``(*positions, D,
        P)`` or less; None if there are none. The rest is of its other rows then.
    """

    value: Array
    regressor: Array
    parent_map: Array | None
    known: Array | None
    placement: Array | None
    scale: Array | None
    noise: ExpectedNoise | None
    members: Array | None
    entries: Array | None
    fixed: Array | None = None

    def placed(
        self, learnt: ExpectedRegression, entries: Array | None
    ) -> ExpectedRegression:
        """The factor, from moments of (F, Sigma)."""
        if self.known is not None and self.placement is not None:
            learnt = learnt.placed(self.known, self.placement)
        return learnt if self.scale is None else learnt.scaled(self.scale, entries)

    @property
    def all_known(self) -> bool:
        """Whether nothing of the location is learnt."""
        return self.placement is not None and not self.placement.shape[-2]

    def to_block(self, v: Array, w: Array, states: int) -> tuple[Array, Array]:
        """The response ``v - K w`` and the regressor ``S w`` of (F, Sigma) alone.

        What differs between states is averaged.

        :param v: responses, of shape ``(*positions, D)``.
        :param w: regressors, of shape ``(*positions, P)``.
        :param states: how many axes are states.
        """
        if self.known is None or self.placement is None:
            return v, w

        def apply(matrix: Array) -> Array:
            if matrix.ndim > 2:
                matrix = jnp.mean(matrix, tuple(range(-2 - states, -2)))
            return jnp.squeeze(matrix @ w[..., None], -1)

        return v - apply(self.known), apply(self.placement)

    def to_block_by_state(self, v: Array, w: Array, states: int) -> tuple[Array, Array]:
        """The same in each state, ``(*positions, S, D)`` and ``(*positions, S, M)``.

        The S assignments of the states are one axis.
        """
        known: Any = self.known
        placement: Any = self.placement
        for _ in range(states):
            v, w = v[..., None, :], w[..., None, :]
        v = v - jnp.squeeze(known @ w[..., None], -1)
        u = jnp.squeeze(placement @ w[..., None], -1)
        batch = jnp.broadcast_shapes(v.shape[:-1], u.shape[:-1])
        lead = batch[: len(batch) - states]
        v, u = (jnp.broadcast_to(x, (*batch, x.shape[-1])) for x in (v, u))
        return v.reshape(*lead, -1, v.shape[-1]), u.reshape(*lead, -1, u.shape[-1])


def bind_regression(
    prober: Prober, site: Site, factor: GaussianFactor
) -> BoundRegression:
    """Read what a Gaussian factor needs of the data."""
    view = View.of(prober, site, factor)
    affine = read_affine(prober, site, factor)
    bind = _bind_site if factor.vector else _bind_part
    bound = bind(view, factor, affine)
    states, entries = len(factor.selectors), site.entries
    noise, scale = bound.noise, bound.scale
    if noise is not None and not factor.beside.noise_by_state:
        covariance = _in_all_states(noise.covariance, 2, states)
        noise = ExpectedNoise(covariance, _in_all_states(noise.log_det, 0, states))
    if scale is not None and not factor.beside.all_by_state:
        scale = _in_all_states(scale, 0, states)
    if factor.source.gathered:
        bound = bound._replace(members=gathered_members(view, factor))
    if entries is None:
        return bound._replace(noise=noise, scale=scale)
    value = jnp.where(entries, bound.value, 0.0)
    of_states = jnp.expand_dims(entries, tuple(range(-1 - states, -1)))
    known = bound.known
    if known is not None:
        known = jnp.where(of_states[..., None], known, 0.0)
    noise = None if noise is None else noise.only(of_states)
    return bound._replace(
        value=value, known=known, noise=noise, scale=scale, entries=entries
    )


def _in_all_states(value: Array, event: int, states: int) -> Array:
    """With axes of size one for states, if it has any for positions."""
    if value.ndim <= event:
        return value
    return jnp.expand_dims(value, tuple(range(-event - states, -event)))


def _bind_part(view: View, factor: GaussianFactor, affine: Affine) -> BoundRegression:
    """A part of a chain."""
    site, known, placement = view.site, affine.known, affine.parent_map
    states, positions = len(factor.selectors), extent_of(site, factor.role).positions
    if factor.role == "initial":
        value, regressor = _first(site.value, positions)
    else:
        value, regressor = _steps(site.value, site.fn.inputs, positions)
    if view.support is not None:
        value = view.support.seen_vector(value)
    if known is not None:
        if placement is None:
            placement = jnp.zeros((0, known.shape[-1]))
        if not factor.beside.by_state:
            known = _in_all_states(known, 2, states)
        placement = _in_all_states(placement, 2, states)
    rest = affine.scale, affine.noise, None, None
    chain = value, regressor, None, known, placement
    return BoundRegression(*chain, *rest, affine.fixed)


@partial(jax.jit, static_argnums=1)
def _first(path: Array, positions: tuple[int, ...]) -> tuple[Array, Array]:
    """The response and the regressor of the first step of a chain."""
    return path[..., 0, :], jnp.ones((*positions, 1))


@partial(jax.jit, static_argnums=2)
def _steps(
    path: Array, inputs: Array, positions: tuple[int, ...]
) -> tuple[Array, Array]:
    """Those of the other steps."""
    inputs = jnp.broadcast_to(inputs, positions + inputs.shape[-1:])
    return path[..., 1:, :], jnp.concatenate([path[..., :-1, :], inputs], -1)


def _bind_site(view: View, factor: GaussianFactor, affine: Affine) -> BoundRegression:
    """A site: S is left to U and c where K has nothing for the parents."""
    site, states = view.site, len(factor.selectors)
    value, offset, known = site.value, affine.offset, affine.known
    positions = extent_of(site, factor.role).positions
    if factor.role == "initial":
        value = value[..., 0, :]
    by_state, rest = factor.beside.by_state, (affine.scale, affine.noise, None, None)
    if offset is not None and site.observed and not by_state:
        value, offset = value - offset, None
    if known is None and offset is None and affine.regressor is not None:
        given = affine.regressor, affine.parent_map, None, None
        return BoundRegression(value, *given, *rest)
    size = sum(view.prober.locals[name].size for name in factor.parents)
    dim = value.shape[-1]
    if known is None:
        known = jnp.zeros((dim, size))
    placement = jnp.zeros((0, size + 1))
    if affine.regressor is not None:
        empty = jnp.zeros((view.columns, size))
        maps = empty if affine.parent_map is None else affine.parent_map
        placement = _beside(maps, affine.regressor[..., None])
    if not by_state:
        known = _in_all_states(known, 2, states)
        offset = None if offset is None else _in_all_states(offset, 1, states)
    if offset is None and size and affine.regressor is None:  # nothing constant
        regressor, eye = jnp.zeros((*positions, size)), jnp.eye(size)
        return BoundRegression(value, regressor, eye, known, placement[:, 1:], *rest)
    column = jnp.zeros((dim, 1)) if offset is None else offset[..., None]
    known = _beside(known, column)
    if not factor.beside.all_by_state:
        placement = _in_all_states(placement, 2, states)
    shown = jnp.eye(size + 1, size) if size else None
    last = jnp.eye(size + 1)[size]
    regressor = jnp.broadcast_to(last, (*positions, size + 1))
    return BoundRegression(value, regressor, shown, known, placement, *rest)


def _beside(x: Array, y: Array) -> Array:
    """Matrices side by side."""
    batch = jnp.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    both = [jnp.broadcast_to(z, (*batch, *z.shape[-2:])) for z in (x, y)]
    return jnp.concatenate(both, -1)
