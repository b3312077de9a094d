# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What factors of several sites say to each of them, if the sites are independent.

The expected value of such a factor is multilinear in the expected statistics of its
sites, and the message to a site is its gradient with respect to those of that site
(Winn and Bishop, *Variational message passing*, JMLR 2005).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.factors.forms import Form
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import clean, read_at

__all__ = ["Moments", "Statistics", "expected", "to_discrete", "to_gaussian"]

_IMPOSSIBLE = -1e4
"""A log probability that is none in any precision, and can be weighted by zero."""


class Moments(NamedTuple):
    """Expected statistics of a Gaussian site.

    :param mean: ``E x``, of shape ``(*positions, D)``.
    :param second: ``E x x'``, of shape ``(*positions, D, D)``.
    """

    mean: Array
    second: Array

    @classmethod
    def of(cls, mean: Array, covariance: Array) -> Moments:
        """The statistics of a mean and a covariance."""
        return cls(mean, covariance + mean[..., :, None] * mean[..., None, :])


Statistics = dict[str, Array | Moments]
"""Expected statistics by site: moments, or probabilities ``(*positions, K)``."""


def expected(factors: ExpectedFactors, form: Form, statistics: Statistics) -> Array:
    """The expectation of a factor at each position, zero where it is masked.

    :param statistics: of its sites.
    """
    states, extra = len(form.selectors), form.extent.positions

    def seen(name: str, value: Array, event_dim: int) -> Array:
        value = read_at(value, factors.extent(name), form.extent, event_dim)
        event = value.shape[value.ndim - event_dim :]
        return jnp.broadcast_to(value, (*extra, *event))

    value = jnp.maximum(form.constant, _IMPOSSIBLE)
    if form.vectors:
        moments: list = [statistics[name] for name in form.vectors]
        named = list(zip(form.vectors, moments))
        means = [seen(name, m.mean, 1) for name, m in named]
        seconds = [seen(name, m.second, 2) for name, m in named]
        axes = tuple(range(len(extra), len(extra) + states))
        first = jnp.expand_dims(jnp.concatenate(means, -1), axes)
        second = jnp.expand_dims(_together(means, seconds), axes)
        value = form.constant + jnp.sum(form.info * first, -1)
        value = value - 0.5 * jnp.sum(form.precision * second, (-2, -1))
    value = jnp.broadcast_to(value, (*extra, *value.shape[value.ndim - states :]))
    for name in reversed(form.selectors):  # the last state is the last axis
        probs = seen(name, jnp.asarray(statistics[name]), 1)
        missing = value.ndim - probs.ndim
        axes = tuple(range(len(extra), len(extra) + missing))
        value = jnp.sum(value * jnp.expand_dims(probs, axes), -1)
    return clean(form.extent, value, 0)


def _together(means: list[Array], seconds: list[Array]) -> Array:
    """``E x x'`` of independent vectors side by side."""
    rows = [
        [
            second if i == j else mean[..., :, None] * other[..., None, :]
            for j, other in enumerate(means)
        ]
        for i, (mean, second) in enumerate(zip(means, seconds))
    ]
    return jnp.concatenate([jnp.concatenate(row, -1) for row in rows], -2)


def _gradient(
    factors: ExpectedFactors, name: str, forms: Iterable[Form], statistics: Statistics
) -> Array | Moments:
    """Of the expectation of factors, by the statistics of a site."""

    def energy(own: Array | Moments) -> Array:
        total = jnp.zeros(())
        for form in forms:
            value = expected(factors, form, {**statistics, name: own})
            total = total + form.extent.scale * jnp.sum(value)
        return total / factors.extent(name).scale

    return jax.grad(energy)(statistics[name])


def to_discrete(
    factors: ExpectedFactors, name: str, forms: Iterable[Form], statistics: Statistics
) -> Array:
    """Message to a discrete site, ``(*positions, K)``.

    :param forms: the factors that say it.
    :param statistics: of all of their sites.
    """
    found = _gradient(factors, name, forms, statistics)
    return jnp.asarray(found)


def to_gaussian(
    factors: ExpectedFactors, name: str, forms: Iterable[Form], statistics: Statistics
) -> GaussianPotential:
    """Message to a Gaussian site; second moments of other ones have no part in it.

    :param forms: the factors that say it.
    :param statistics: of all of their sites.
    """
    found = _gradient(factors, name, forms, statistics)
    if not isinstance(found, Moments):
        raise TypeError(f"Site '{name}': {type(found).__name__} with Gaussian messages")
    precision = -(found.second + jnp.swapaxes(found.second, -1, -2))
    return GaussianPotential(found.mean, precision)
