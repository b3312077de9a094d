# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factors of a program as terms of the graph block, at the current expectations."""

from __future__ import annotations

from math import log, pi
from typing import Any, NamedTuple

from jax import Array
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from numpyro_svae.blocks.graph import GaussianTerm, TableTerm
from numpyro_svae.families import ExpectedRegression
from numpyro_svae.inference.beliefs import heard
from numpyro_svae.inference.chains import log_probs
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import (
    GaussianConditional,
    GaussianFactor,
    TableConditional,
)
from numpyro_svae.program.graphs import axes_of
from numpyro_svae.program.places import Place, clean

__all__ = ["gaussian_term", "prior_term", "said_term", "spoken_term", "table_term"]

Scale = Array | float


def prior_term(evidence: Evidence, name: str) -> GaussianTerm | TableTerm:
    """The expected log prior of a site given the sites before it."""
    factor = evidence.own(name)
    if isinstance(factor, GaussianFactor | GaussianConditional):
        return gaussian_term(evidence, factor)
    if isinstance(factor, TableConditional):
        return table_term(evidence, factor)
    axes = axes_of(evidence.site(name))
    logits = axes.to_plates(log_probs(evidence, name), 1)
    return TableTerm((name,), axes.plates, logits)


def said_term(evidence: Evidence, name: str, said: Array) -> TableTerm:
    """What is said of a discrete site alone, ``(*positions, K)``."""
    axes = axes_of(evidence.site(name))
    return TableTerm((name,), axes.plates, axes.to_plates(said, 1))


def spoken_term(
    evidence: Evidence, name: str, spoken: GaussianPotential | None
) -> GaussianTerm:
    """What the recognition function says of a Gaussian site."""
    axes, potential = axes_of(evidence.site(name)), heard(evidence, name, spoken)
    info = axes.to_plates(potential.info_vector, 1)
    precision = axes.to_plates(potential.full_precision(), 2)
    zero = jnp.zeros(axes.sizes)
    return GaussianTerm((name,), (), axes.plates, info, precision, zero)


def table_term(
    evidence: Evidence, factor: TableConditional, scale: Scale = 1.0
) -> TableTerm:
    """A discrete site given discrete sites, or an observed site given several.

    :param scale: factor of the log density of an observed site.
    """
    name, site = factor.site, evidence.site(factor.site)
    latent = name in evidence.structure.locals
    states = (*factor.selectors, name) if latent else factor.selectors
    if factor.source.prior is not None:
        logits, axes = evidence.moments[factor.source.prior], axes_of(site)
    else:
        table = evidence.bound.tables[name]
        logits, axes = table.log_probs, axes_of(site, table.extra)
    return TableTerm(states, axes.plates, scale * axes.to_plates(logits, len(states)))


class _Parts(NamedTuple):
    """A Gaussian factor in the parents of its site.

    :param parents: Gaussian sites whose values x concatenates.
    :param selectors: discrete sites.
    :param parent_map: U, ``(*positions, M, P)`` or less.
    """

    parents: tuple[str, ...]
    selectors: tuple[str, ...]
    parent_map: Any


def _parts(evidence: Evidence, factor: Any, columns: int) -> _Parts:
    if isinstance(factor, GaussianConditional):
        bound = evidence.bound.regressions[factor.site, factor.role]
        return _Parts(factor.parents, factor.selectors, bound.parent_map)
    selector, parent = factor.source.selector, factor.parent
    selectors = () if selector is None else (selector,)
    if parent is None:
        return _Parts((), selectors, jnp.zeros((columns, 0)))
    known = jnp.eye(columns) if factor.parent_map is None else factor.parent_map
    return _Parts((parent,), selectors, jnp.asarray(known))


def gaussian_term(
    evidence: Evidence, factor: GaussianFactor | GaussianConditional, scale: Scale = 1.0
) -> GaussianTerm:
    r"""``E log N(v; F u, Sigma)`` with ``u = U x + c`` as a function of v and x.

    With :math:`A = E[\Sigma^{-1} F]` and :math:`Q = E[F^T \Sigma^{-1} F]`,

    .. math::

        J = \begin{pmatrix} E[\Sigma^{-1}] & -A U \\ -U^T A^T & U^T Q U \end{pmatrix},
        \quad h = \begin{pmatrix} A c \\ -U^T Q c \end{pmatrix}.

    :param evidence: the factors, given for each state.
    :param factor: the factor; one of an observed site is conditioned on its value.
    :param scale: factor of the log density of an observed site.
    """
    site, place = evidence.site(factor.site), evidence.place(factor)
    regression, c = evidence.regression(factor), evidence.regressor(factor)
    parents, selectors, parent_map = _parts(evidence, factor, c.shape[-1])
    for _ in selectors:
        c, parent_map = c[..., None, :], _before(parent_map, place)
    sizes = tuple(evidence.local(name).size for name in selectors)
    v = None
    if factor.site not in evidence.structure.locals:
        v = clean(place, evidence.bound.regressions[factor.site, factor.role].value)
        v = jnp.expand_dims(v, tuple(range(-1 - len(sizes), -1)))
    info, precision, constant = _joint(regression, parent_map, c)
    if v is None:
        variables = (factor.site, *parents)
    else:
        variables = parents
        info, precision, constant = _given(info, precision, constant, v)
    axes = axes_of(site)

    def arrange(value: Array, event_dim: int) -> Array:
        event = value.shape[value.ndim - event_dim :]
        value = jnp.broadcast_to(value, (*place.positions, *sizes, *event))
        if v is not None:
            value = scale * clean(place, value, event_dim + len(sizes))
        return axes.to_plates(value, event_dim + len(sizes))

    return GaussianTerm(
        variables,
        selectors,
        axes.plates,
        arrange(info, 1),
        arrange(precision, 2),
        arrange(constant, 0),
    )


def _before(parent_map: Array, place: Place) -> Array:
    """A map by position with an axis for states after the positions."""
    shared = parent_map.ndim <= 2
    return parent_map if shared else parent_map[..., None, :, :]


def _joint(
    regression: ExpectedRegression, parent_map: Array, c: Array
) -> tuple[Array, Array, Array]:
    """Information form of the factor in ``(v, x)``."""
    weight, covariance, excess, log_det = regression
    tril, dim = jnp.linalg.cholesky(covariance), covariance.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(dim, dtype=tril.dtype), tril.shape)
    precision = cho_solve((tril, True), identity)
    a = precision @ weight
    q = jnp.swapaxes(weight, -1, -2) @ a + excess
    pull = jnp.swapaxes(parent_map, -1, -2)
    cross = -a @ parent_map
    corner = pull @ q @ parent_map
    batch = jnp.broadcast_shapes(
        precision.shape[:-2], cross.shape[:-2], corner.shape[:-2]
    )
    shaped = (
        jnp.broadcast_to(m, (*batch, *m.shape[-2:])) for m in (precision, cross, corner)
    )
    precision, cross, corner = shaped
    matrix = jnp.concatenate(
        [
            jnp.concatenate([precision, cross], -1),
            jnp.concatenate([jnp.swapaxes(cross, -1, -2), corner], -1),
        ],
        -2,
    )
    qc = jnp.squeeze(q @ c[..., None], -1)
    own = jnp.squeeze(a @ c[..., None], -1)
    of_parents = -jnp.squeeze(pull @ qc[..., None], -1)
    info = jnp.concatenate([own, of_parents], -1)
    constant = -0.5 * (jnp.sum(c * qc, -1) + log_det + dim * log(2 * pi))
    return info, matrix, constant


def _given(
    info: Array, precision: Array, constant: Array, v: Array
) -> tuple[Array, Array, Array]:
    """The same in x alone, at a known v."""
    dim = v.shape[-1]
    pulled = jnp.squeeze(precision[..., :, :dim] @ v[..., None], -1)
    value = jnp.sum(v * (info[..., :dim] - 0.5 * pulled[..., :dim]), -1)
    rest = info[..., dim:] - pulled[..., dim:]
    return rest, precision[..., dim:, dim:], constant + value
