# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a program gives of a Gaussian factor, read at zero and at unit values.

A factor is ``N(v; (K + F S) w, s Sigma)``, with F and Sigma from global blocks or not
at all. The program shows K where F is zero, a row of S where F copies a regressor to
the first entry of the response, and s where Sigma is one. The regressor w is [x; 1]
with the parents x; [x; inputs] in the transition of a chain, and 1 in its initial part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.priors.noise_priors import ExpectedNoise
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.assignments import by_states
from numpyro_svae.program.structure.factors import GaussianFactor
from numpyro_svae.program.structure.probing import Prober
from numpyro_svae.program.structure.supports import Support

__all__ = ["PARAMETERS", "Affine", "View", "at_first", "read_affine"]

PARAMETERS = {
    "value": ("loc", "covariance"),
    "initial": ("initial_loc", "initial_cov"),
    "transition": ("transition_matrix", "transition_cov"),
}

Values = dict[str, Any]


class Affine(NamedTuple):
    """What is known of a factor.

    What differs between the states of the selectors has them as axes after those of
    the positions: K if ``beside.by_state``, S and s if ``beside.all_by_state``, and a
    covariance if ``beside.noise_by_state``. Positions that share a value may have no
    axes.

    :param known: the columns of K for the parents, ``(*positions, D, P)``; None if they
        are zero. Of a part of a chain: all of K.
    :param offset: the column of K for the constant regressor, ``(*positions, D)``;
        None if it is zero, and for a part of a chain.
    :param parent_map: the columns of S for the parents, ``(*positions, M, P)``. Of a
        part of a chain: all of S; None if it is one.
    :param regressor: the column of S for the constant regressor, ``(*positions, M)``;
        None for a part of a chain.
    :param scale: s by position; None if it is one.
    :param noise: the covariance, where no block holds it.
    :param fixed: of a part of a chain, what is known of its rows without noise; None if
        there are none.
    """

    known: Array | None
    offset: Array | None
    parent_map: Array | None
    regressor: Array | None
    scale: Array | None
    noise: ExpectedNoise | None
    fixed: Array | None = None


@dataclass(frozen=True)
class View:
    """Runs a program to look at one Gaussian site.

    :param prober: runs it.
    :param site: the site.
    :param role: the part of its density.
    :param holder: the block or the join that holds F and Sigma; None without one.
    :param support: where the part has noise, which is what is looked at; None if that
        is everywhere.
    :param vector: whether the location is that of a vector with parents, no matrix.
    """

    prober: Prober
    site: Site
    role: str
    holder: Any
    support: Support | None = None
    vector: bool = True

    @classmethod
    def of(cls, prober: Prober, site: Site, factor: GaussianFactor) -> View:
        """That of a factor."""
        holder = prober.holder(factor.source.prior)
        rest = factor.support, factor.vector
        return cls(prober, site, factor.role, holder, *rest)

    @property
    def columns(self) -> int:
        """M, the number of columns of F."""
        return 0 if self.holder is None else self.holder.columns

    def _run(self, values: Values, column: Any = 0, **options: Any) -> dict[str, Any]:
        single = self.columns == 1 and isinstance(column, int) and column == 0
        if not values and not options and (not self.columns or single):
            return self.prober.plain(self.site.name)
        shown = self.holder.plain_values(column, **options) if self.columns else {}
        plain = self.prober.plain_values()
        return self.prober.read({**plain, **shown, **values})[self.site.name]

    def location(self, values: Values, column: Any = -1, **options: Any) -> Array:
        """The location at a value of w, or K + F S of a part of a chain.

        :param values: of local sites; others are zero.
        :param column: the regressor that F copies; none if it is -1.
        :param options: of the values that blocks have then.
        """
        found = self._whole(values, column, **options)
        return found if self.support is None else self.support.seen(found)

    def _whole(self, values: Values, column: Any, **options: Any) -> Array:
        found = self._run(values, column, **options)[PARAMETERS[self.role][0]]
        column_alone = self.role == "initial" and not self.vector
        return found[..., None] if column_alone else found

    def fixed(self) -> Array | None:
        """The rows of a part of a chain that have no noise; zero in others."""
        if self.support is None:
            return None
        return self.support.unseen(self._whole({}, -1))

    def covariance(self, values: Values) -> Array:
        """The covariance at the plain values of what holds it."""
        plain = self.prober.plain(self.site.name)
        if values:
            plain = self.prober.read({**self.prober.plain_values(), **values})
            plain = plain[self.site.name]
        return self.seen_covariance(plain[PARAMETERS[self.role][1]])

    def seen_covariance(self, covariance: Array) -> Array:
        """A covariance in the directions in which the part has noise."""
        if self.support is None:
            return covariance
        return self.support.seen_covariance(covariance)

    def rows(self, values: Values, **options: Any) -> Array:
        """The first entry of the location for each column of F, on the last axis.

        Of a part of a chain: the first row of K + F S, on the axis before the last.
        """
        axis = -1 if self.vector else -2

        def show(column: Any) -> Array:
            found = self.location(values, column, **options)
            return found[..., 0] if self.vector else found[..., 0, :]

        if self.columns == 1:
            return jnp.expand_dims(show(0), axis)
        return jnp.moveaxis(jax.vmap(show)(jnp.arange(self.columns)), 0, axis)

    def along(self, parents: tuple[str, ...], read: Callable[[Values], Array]) -> Array:
        """What unit vectors of the parents add to what is read, on a new last axis."""
        origin = read({})
        parts = [jnp.zeros((*origin.shape, 0), origin.dtype)]
        for name in parents:
            zero = jnp.zeros_like(self.prober.sites[name].value)
            unit = jnp.eye(self.prober.locals[name].size, dtype=zero.dtype)
            found = jax.vmap(lambda e, n=name, z=zero: read({n: z + e}) - origin)(unit)
            parts.append(jnp.moveaxis(found, 0, -1))
        return jnp.concatenate(parts, -1)

    def scale(self, values: Values | None = None) -> Array:
        """The first variance where those of the blocks are one.

        :param values: of local sites; others are zero.
        """
        plain = {**self.prober.plain_values(), **self.holder.unit_noise()}
        plain |= values or {}
        found = self.prober.read(plain)[self.site.name][PARAMETERS[self.role][1]]
        return self.seen_covariance(found)[..., 0, 0]

    @property
    def batched(self) -> bool:
        """Whether blocks have members that are picked."""
        return self.holder is not None and self.holder.components is not None

    @property
    def has_noise(self) -> bool:
        """Whether a block holds Sigma."""
        return self.holder is not None and self.holder.has_noise

    def in_states(
        self, selectors: tuple[str, ...], read: Callable[[Values], Array], event: int
    ) -> Array:
        """What is read in each assignment of sites, ``(..., *states, *event)``.

        :param event: how many trailing axes are no positions.
        """
        shape = jax.eval_shape(read, {}).shape
        return by_states(self.prober, selectors, read, shape[: len(shape) - event])


def read_affine(prober: Prober, site: Site, factor: GaussianFactor) -> Affine:
    """Read what a program gives of a factor."""
    view = View.of(prober, site, factor)
    beside, noise = factor.beside, None
    if not view.has_noise:
        own = factor.selectors if beside.noise_by_state else ()
        noise = ExpectedNoise.of(view.in_states(own, view.covariance, 2))
    scale = None
    if beside.scaled:
        own = factor.selectors if beside.all_by_state else ()
        scale = view.in_states(own, view.scale, 0)
    read = _read_site if factor.vector else _read_part
    return read(view, factor)._replace(scale=scale, noise=noise)


def _read_part(view: View, factor: GaussianFactor) -> Affine:
    """K and S of a part of a chain."""
    known = placement = None
    picks = factor.selectors if factor.beside.by_state else ()
    if factor.beside.location:
        known = view.in_states(picks, view.location, 2)
        if view.columns:
            placement = view.rows({}) - view.location({})[..., :1, :]
    return Affine(known, None, placement, None, None, None, view.fixed())


def _read_site(view: View, factor: GaussianFactor) -> Affine:
    """K and S of a site."""
    beside, parents = factor.beside, factor.parents
    picks = factor.selectors if beside.by_state else ()
    places = factor.selectors if beside.all_by_state else ()
    known = offset = regressor = placement = None

    def by_parents(values: Values) -> Array:
        found = view.along(parents, lambda own: view.location({**values, **own}))
        return at_first(found) if beside.shared else found

    def placed(values: Values) -> Array:
        found = view.rows(values)
        return found - view.location(values)[..., :1] if beside.location else found

    def placed_by_parents(values: Values) -> Array:
        found = view.along(parents, lambda own: view.rows({**values, **own}))
        own = by_parents(values)[..., :1, :] if beside.location == "map" else 0.0
        return found - own

    if beside.location:
        offset = view.in_states(picks, view.location, 1)
    if beside.location == "map" and parents:
        known = view.in_states(picks, by_parents, 2)
    if view.columns:
        regressor = view.in_states(places, placed, 1)
        placement = factor.parent_map
        if parents and placement is None:
            placement = view.in_states(places, placed_by_parents, 2)
    return Affine(known, offset, placement, regressor, None, None)


def at_first(maps: Array) -> Array:
    """The map of the first position, from those of all."""
    return maps[(0,) * (maps.ndim - 2)]
