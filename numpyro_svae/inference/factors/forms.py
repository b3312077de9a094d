# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Factors of several local sites, as quadratic forms by state.

At the current expectations of the globals such a factor is, at each position,

.. math::

    c_s + h_s^T x - \\tfrac12 x^T J_s x

where s are the states of its discrete sites, and x concatenates its Gaussian ones, less
an origin for each. With origins near the bulk of the posterior no number is larger than
the residuals there make it.
"""

from __future__ import annotations

from math import log, pi
from typing import NamedTuple

from jax import Array
from jax.nn import log_softmax
import jax.numpy as jnp

from numpyro_svae.families import ExpectedRegression
from numpyro_svae.families.matrices import matvec
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.chains import log_probs
from numpyro_svae.inference.factors.densities import whitener_of
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.program.run.positions import Extent, clean, read_at
from numpyro_svae.program.structure.factors import Factor

__all__ = ["Form", "Origins", "form_of"]


class Form(NamedTuple):
    """The quadratic form of a factor.

    Arrays broadcast to ``(*positions, *states, *event)``.

    :param factor: the factor.
    :param vectors: its Gaussian sites.
    :param selectors: its discrete sites.
    :param extent: where it is.
    :param info: h, with event ``(P,)``.
    :param precision: J, with event ``(P, P)``.
    :param constant: c.
    """

    factor: Factor
    vectors: tuple[str, ...]
    selectors: tuple[str, ...]
    extent: Extent
    info: Array
    precision: Array
    constant: Array

    @property
    def scope(self) -> tuple[str, ...]:
        """The local sites that it joins."""
        return (*self.vectors, *self.selectors)


Origins = dict[str, Array]
"""Origins of Gaussian sites by name, ``(*positions, D)``; zero if there is none."""


def form_of(
    factors: ExpectedFactors,
    factor: Factor,
    origins: Origins | None = None,
    proper: bool = False,
) -> Form:
    """The form of a conditional, or of the prior of a site or what is seen of one.

    :param factors: the factors, given for each state.
    :param factor: the factor; one of an observed site is conditioned on its value.
    :param origins: what is taken off Gaussian sites.
    :param proper: whether a prior is to be the density that is closest to it, of mass
        one whatever the sites are that it depends on.
    """
    if factor.form == "regression":
        return _gaussian(factors, factor, origins or {}, proper)
    states: tuple[str, ...] = (factor.site,)
    if not factor.coupled:
        logits = log_probs(factors, factor.site)
    else:
        logits = factors.table(factor)
        latent = factor.site in factors.structure.locals
        states = (*factor.selectors, *(states if latent else ()))
    if proper:
        logits = log_softmax(logits, -1)
    extent = _extent(factors, factor)
    return Form(factor, (), states, extent, jnp.zeros(0), jnp.zeros((0, 0)), logits)


def _extent(factors: ExpectedFactors, factor: Factor) -> Extent:
    whole = factor.site in factors.structure.locals and factor.role == "value"
    return factors.extent(factor.site if whole else factor)


def _gaussian(
    factors: ExpectedFactors,
    factor: Factor,
    origins: Origins,
    proper: bool,
) -> Form:
    r"""``E log N(v; F u, Sigma)`` with ``u = U x + c`` as a function of v and x.

    With the weight :math:`W`, precision :math:`P` and excess :math:`E` of the factor,
    the regressor :math:`u_0` at the origins, and the residual
    :math:`r = v_0 - W u_0` there,

    .. math::

        J = \begin{pmatrix} P & -P W U \\ -U^T W^T P & U^T (W^T P W + E) U
        \end{pmatrix}, \quad
        h = \begin{pmatrix} -P r \\ U^T (W^T P r - E u_0) \end{pmatrix}.
    """
    extent = _extent(factors, factor)
    regression, c = factors.regression(factor), factors.regressor(factor)
    if proper:
        regression = messages.proper_regression(regression)
    parents, selectors = factor.parents, factor.selectors
    data = factors.bound.regressions[factor.site, factor.role]
    parent_map = data.parent_map
    if parent_map is None:
        parent_map = jnp.zeros((c.shape[-1], 0))
    latent = factor.site in factors.structure.locals

    def origin(name: str) -> Array:
        value = origins.get(name, jnp.zeros(factors.local(name).size))
        if name in origins:
            value = read_at(value, factors.extent(name), extent, 1)
        return jnp.broadcast_to(value, (*extent.positions, value.shape[-1]))

    if latent:  # of a path, at the position of the factor
        v = origin(factor.site)
    else:
        v = clean(extent, data.value)
    if any(name in origins for name in parents):
        x = jnp.concatenate([origin(name) for name in parents], -1)
        c = c + jnp.squeeze(parent_map @ x[..., None], -1)
    for _ in selectors:
        c, v, parent_map = c[..., None, :], v[..., None, :], _before(parent_map)
    form = _joint(regression, parent_map, c, v)
    if latent:
        return Form(factor, (factor.site, *parents), selectors, extent, *form)
    info, precision, constant = form
    dim = v.shape[-1]
    own = info[..., dim:], precision[..., dim:, dim:], constant
    return Form(factor, parents, selectors, extent, *own)


def _before(parent_map: Array) -> Array:
    """A map by position with an axis for states after the positions."""
    shared = parent_map.ndim <= 2
    return parent_map if shared else parent_map[..., None, :, :]


def _joint(
    regression: ExpectedRegression, parent_map: Array, u: Array, v: Array
) -> tuple[Array, Array, Array]:
    """Information form of the factor in ``(v, x)``, about their origins."""
    weight, _, excess, log_det = regression
    whitener, _ = whitener_of(regression.covariance)
    half = whitener @ weight @ parent_map
    pull = jnp.swapaxes(parent_map, -1, -2)
    corner = jnp.swapaxes(half, -1, -2) @ half + pull @ excess @ parent_map
    transposed = jnp.swapaxes(whitener, -1, -2)
    precision, cross = transposed @ whitener, -transposed @ half
    residual = matvec(whitener, v - matvec(weight, u))
    beyond = matvec(excess, u)
    info = matvec(jnp.swapaxes(half, -1, -2), residual) - matvec(pull, beyond)
    info = _beside(-matvec(transposed, residual), info)
    quadratic = jnp.sum(residual**2, -1) + jnp.sum(u * beyond, -1)
    constant = -0.5 * (quadratic + log_det + v.shape[-1] * log(2 * pi))
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
    return info, matrix, constant


def _beside(x: Array, y: Array) -> Array:
    """Vectors end to end."""
    batch = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    both = (jnp.broadcast_to(z, (*batch, z.shape[-1])) for z in (x, y))
    return jnp.concatenate(list(both), -1)
