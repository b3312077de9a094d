# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factors of several local sites, as quadratic forms by state.

At the current expectations of the globals such a factor is, at each position,

.. math::

    c_s + h_s^T x - \\tfrac12 x^T J_s x

where s are the states of its discrete sites, and x concatenates its Gaussian ones.
"""

from __future__ import annotations

from math import log, pi
from typing import Any, NamedTuple

from jax import Array
from jax.nn import log_softmax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.inference import messages
from numpyro_svae.inference.chains import log_probs
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.program.factors import (
    Conditional,
    Factor,
    GaussianConditional,
    GaussianFactor,
    TableConditional,
)
from numpyro_svae.program.places import Place, clean

__all__ = ["Form", "form_of"]


class Form(NamedTuple):
    """The quadratic form of a factor.

    Arrays broadcast to ``(*positions, *states, *event)``.

    :param factor: the factor.
    :param vectors: its Gaussian sites.
    :param selectors: its discrete sites.
    :param place: where it is.
    :param info: h, with event ``(P,)``.
    :param precision: J, with event ``(P, P)``.
    :param constant: c.
    """

    factor: Factor
    vectors: tuple[str, ...]
    selectors: tuple[str, ...]
    place: Place
    info: Array
    precision: Array
    constant: Array

    @property
    def scope(self) -> tuple[str, ...]:
        """The local sites that it joins."""
        return (*self.vectors, *self.selectors)


def form_of(evidence: Evidence, factor: Factor, proper: bool = False) -> Form:
    """The form of a conditional, or of the prior of a site or what is seen of one.

    :param evidence: the factors, given for each state.
    :param factor: the factor; one of an observed site is conditioned on its value.
    :param proper: whether a prior is to be the density that is closest to it, of mass
        one whatever the sites are that it depends on.
    """
    if isinstance(factor, GaussianFactor | GaussianConditional):
        return _gaussian(evidence, factor, proper)
    states: tuple[str, ...] = (factor.site,)
    if not isinstance(factor, TableConditional):
        logits = log_probs(evidence, factor.site)
    else:
        logits = evidence.conditional_table(factor)
        latent = factor.site in evidence.structure.locals
        states = (*factor.selectors, *(states if latent else ()))
    if proper:
        logits = log_softmax(logits, -1)
    place = _place(evidence, factor)
    return Form(factor, (), states, place, jnp.zeros(0), jnp.zeros((0, 0)), logits)


def _place(evidence: Evidence, factor: Factor) -> Place:
    latent = factor.site in evidence.structure.locals
    return evidence.place(factor.site if latent else factor)


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
    if isinstance(factor, Conditional):
        bound = evidence.bound.regressions[factor.site, factor.role]
        return _Parts(factor.parents, factor.selectors, bound.parent_map)
    selector, parent = factor.source.selector, factor.parent
    selectors = () if selector is None else (selector,)
    if parent is None:
        return _Parts((), selectors, jnp.zeros((columns, 0)))
    known = jnp.eye(columns) if factor.parent_map is None else factor.parent_map
    return _Parts((parent,), selectors, jnp.asarray(known))


def _gaussian(
    evidence: Evidence, factor: GaussianFactor | GaussianConditional, proper: bool
) -> Form:
    r"""``E log N(v; F u, Sigma)`` with ``u = U x + c`` as a function of v and x.

    With :math:`A = E[\Sigma^{-1} F]` and :math:`Q = E[F^T \Sigma^{-1} F]`,

    .. math::

        J = \begin{pmatrix} E[\Sigma^{-1}] & -A U \\ -U^T A^T & U^T Q U \end{pmatrix},
        \quad h = \begin{pmatrix} A c \\ -U^T Q c \end{pmatrix}.
    """
    place = _place(evidence, factor)
    regression, c = evidence.regression(factor), evidence.regressor(factor)
    if proper:
        regression = messages.proper_regression(regression)
    parents, selectors, parent_map = _parts(evidence, factor, c.shape[-1])
    for _ in selectors:
        c, parent_map = c[..., None, :], _before(parent_map)
    form = _joint(regression, parent_map, c)
    if factor.site in evidence.structure.locals:
        return Form(factor, (factor.site, *parents), selectors, place, *form)
    v = clean(place, evidence.bound.regressions[factor.site, factor.role].value)
    v = jnp.expand_dims(v, tuple(range(-1 - len(selectors), -1)))
    return Form(factor, parents, selectors, place, *_given(*form, v))


def _before(parent_map: Array) -> Array:
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
