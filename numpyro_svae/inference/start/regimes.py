# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which linear dynamics move a path, where the place that it is in decides.

A path whose next step hangs on where it is has dynamics that hold in regions. They are
found together by a mixture of experts (Jordan and Jacobs, *Hierarchical mixtures of
experts and the EM algorithm*, Neural Computation 1994): each expert is a linear step,
and the weights of the mixture are a softmax of the state before.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import Any, NamedTuple

import jax
from jax import Array, lax, random
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, solve, solve_triangular
from jax.scipy.special import logsumexp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.start.clusters import scaled, spread_components
from numpyro_svae.program.structure.factors import GaussianFactor, Structure

__all__ = ["experts", "recurrent_steps", "regimes"]

_ITERATIONS = 50
_GATE_STEPS = 20
_STARTS = 2
_RIDGE = 1e-3  # as the data are scaled
_COUNT = 5.0  # of pseudo-observations of the noise of an expert


def recurrent_steps(
    structure: Structure, given: Collection[str] = ()
) -> dict[str, GaussianFactor]:
    """The steps of paths that discrete sites pick which hang on the same path.

    :param structure: the wiring of a program.
    :param given: blocks whose start is given.
    :return: by discrete site, where a start is to be found.
    """
    behind = {f.site: f.parent for f in structure.factors if f.form == "logits"}
    found = {}
    for factor in structure.factors:
        name, blocks = factor.source.selector, structure.blocks_of(factor)
        if factor.form != "regression" or factor.role != "transition":
            continue
        if factor.site == behind.get(name) and blocks and not {*blocks} & {*given}:
            found[str(name)] = factor
    return found


def regimes(
    key: Array,
    factors: ExpectedFactors,
    factor: GaussianFactor,
    path: Array,
    known: Array | None,
) -> Array:
    """Memberships ``(*positions, K)`` of the positions of a discrete site.

    :param key: random key.
    :param factors: the factors.
    :param factor: the steps that the site picks.
    :param path: an estimate of the path, ``(*positions, D)``.
    :param known: memberships of positions with a label, and zeros elsewhere.
    """
    name = str(factor.source.selector)
    extent, size = factors.extent(factor), factors.local(name).size
    inputs = factors.site(factor.site).fn.inputs
    inputs = jnp.broadcast_to(inputs, (*extent.positions, inputs.shape[-1]))
    path = jnp.broadcast_to(path, (*extent.batch_shape, *path.shape[-2:]))
    counts = jnp.ones(extent.positions)
    if extent.mask is not None:
        counts = counts * extent.mask
    before, change = path[..., :-1, :], path[..., 1:, :] - path[..., :-1, :]
    unknown = jnp.zeros((*factors.extent(name).positions, size))
    told = factors.spread_for(factor, unknown if known is None else known)

    def flat(part: Array) -> Array:  # there may be no inputs
        return part.reshape(prod(part.shape[:-1]), part.shape[-1])

    steps = flat(scaled(before, counts)), flat(scaled(change, counts))
    member = experts(key, *steps, flat(inputs), flat(told), counts.reshape(-1))
    member = member.reshape(*extent.positions, size)
    found = factors.to_selector(factor, counts[..., None] * member)
    total = jnp.sum(found, -1, keepdims=True)
    even = jnp.full(found.shape, 1.0 / size)
    found = jnp.where(total > 0, found / jnp.where(total > 0, total, 1.0), even)
    if known is None:
        return found
    return jnp.where(jnp.any(known > 0, -1, keepdims=True), known, found)


class _Mixture(NamedTuple):
    """Memberships, weights of the softmax, and the log likelihood before these."""

    member: Array
    gate: Array
    value: Array


def experts(
    key: Array, before: Array, change: Array, inputs: Array, known: Array, weight: Array
) -> Array:
    """Memberships ``(N, K)`` of a mixture of linear steps, the best of a few.

    :param key: random key of the clusters that they begin with.
    :param before: where each step starts, ``(N, D)``, in units of what they spread.
    :param change: the steps, ``(N, D)``, likewise.
    :param inputs: other regressors, ``(N, M)``.
    :param known: members that are known, one-hot ``(N, K)``, and zeros elsewhere.
    :param weight: how much each counts, ``(N,)``.
    """
    count, dim, dtype = known.shape[-1], change.shape[-1], before.dtype
    inputs, known, weight = (x.astype(dtype) for x in (inputs, known, weight))
    one = jnp.ones((len(before), 1), dtype)
    place = jnp.concatenate([before, one], -1)
    regressor = jnp.concatenate([place, inputs], -1)
    is_known = jnp.any(known > 0, -1, keepdims=True)
    features = jnp.concatenate([before, change], -1)
    bend = 0.5 * (1 - 1 / count) * (place.T @ (weight[:, None] * place))
    curvature = cho_factor(bend + _RIDGE * jnp.eye(place.shape[-1], dtype=dtype))

    def density(share: Array) -> Array:
        """The log density of each step under the expert of some members."""
        own = share[:, None] * regressor
        gram = own.T @ regressor + _RIDGE * jnp.eye(regressor.shape[-1], dtype=dtype)
        fit = solve(gram, own.T @ change, assume_a="pos")
        left = change - regressor @ fit
        scatter = (share[:, None] * left).T @ left + _RIDGE * jnp.eye(dim, dtype=dtype)
        tril = jnp.linalg.cholesky(scatter / (jnp.sum(share) + _COUNT))
        white = solve_triangular(tril, left.T, lower=True)
        return -0.5 * jnp.sum(white**2, 0) - jnp.sum(jnp.log(jnp.diag(tril)))

    def iterate(_: Any, mixture: _Mixture) -> _Mixture:
        share = weight[:, None] * mixture.member
        logs = jax.vmap(density, 1, 1)(share)

        def rise(_: Any, gate: Array) -> Array:
            miss = share - weight[:, None] * jax.nn.softmax(place @ gate, -1)
            return gate + cho_solve(curvature, place.T @ miss)

        gate = lax.fori_loop(0, _GATE_STEPS, rise, mixture.gate)
        joint = logs + jax.nn.log_softmax(place @ gate, -1)
        value = jnp.sum(weight * logsumexp(joint, -1))
        member = jnp.where(is_known, known, jax.nn.softmax(joint, -1))
        return _Mixture(member, gate, value)

    def found(key: Array) -> _Mixture:
        begun = spread_components(key, features, weight, count, known)
        gate = jnp.zeros((place.shape[-1], count), dtype)
        begin = _Mixture(0.9 * begun + 0.1 / count, gate, jnp.zeros((), dtype))
        return lax.fori_loop(0, _ITERATIONS, iterate, begin)

    mixtures = lax.map(found, random.split(key, _STARTS))
    return mixtures.member[jnp.argmax(mixtures.value)]
