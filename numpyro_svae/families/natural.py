# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The algebra that every conjugate family shares.

A family has natural parameters :math:`\\eta`, sufficient statistics :math:`t`, and a
log normaliser :math:`A` with :math:`E[t] = \\nabla A(\\eta)`. Natural parameters, the
statistics of data (which are added to them) and expected statistics (which are paired
with them) live in the same container, so conjugacy is ordinary vector arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from typing import Any, Self

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.derivatives import define_vjp

__all__ = ["NaturalParameters", "expected", "natural_kl"]


class NaturalParameters(ABC):
    """Natural parameters of one conjugate family: a JAX pytree and a vector space.

    Subclasses are frozen dataclasses registered with JAX. The optimiser recognises
    natural parameters by this type.
    """

    @property
    @abstractmethod
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of parameters."""

    @abstractmethod
    def log_normalizer(self) -> Array:
        """:math:`A(\\eta)`, of shape ``batch_shape``."""

    @abstractmethod
    def expected_statistics(self) -> Self:
        """:math:`E[t] = \\nabla A(\\eta)`, in a container like this one."""

    @abstractmethod
    def moments(self) -> Any:
        """What factors read: :math:`E[t]` in coordinates that are safe in float32."""

    @abstractmethod
    def pull_back(self, cotangent: Any, moments: Any) -> Self:
        """Turn a cotangent of :meth:`moments` into one of :math:`E[t]`.

        :param cotangent: the cotangent.
        :param moments: the moments, which whoever has a cotangent of them has.
        """

    @abstractmethod
    def kl(self, other: Self) -> Array:
        """:math:`KL(q_\\eta \\| q_{other})`, of shape ``batch_shape``."""

    @abstractmethod
    def largest_step(self, direction: Self, enough: float = inf) -> Array:
        """The largest :math:`s` for which ``self + s * direction`` is in the domain.

        :param direction: a container like this one.
        :param enough: a step beyond which it does not matter: at least this is
            returned where it is in the domain, which is cheaper to find out.
        :return: possibly infinite, and zero where no step is possible, of shape
            ``batch_shape``.
        """

    @abstractmethod
    def has_density(self) -> Array:
        """Whether the scalars are in the domain, of shape ``batch_shape``.

        Matrices that are not have no finite moments, and need not be looked at.
        """

    def witness(self) -> Any:
        """What is finite in the domain, and NaN or infinite where digits have ended."""
        return self.expected_statistics()

    @abstractmethod
    def in_domain(self) -> bool:
        """Whether known parameters are all in the domain; nothing is compiled."""

    def __add__(self, other: Self) -> Self:
        return jax.tree.map(jnp.add, self, other)

    def __sub__(self, other: Self) -> Self:
        return jax.tree.map(jnp.subtract, self, other)

    def widened(self) -> Self:
        """In the precision that JAX computes in, where numbers are given in fewer bits.

        All blocks of a program are moved together, and numbers in float32 beside others
        in float64 would be no state to go on with.
        """
        default = jnp.result_type(float)

        def widen(leaf: Array) -> Array:
            leaf = jnp.asarray(leaf)
            return leaf.astype(jnp.promote_types(leaf.dtype, default))

        return jax.tree.map(widen, self)

    def scale(self, factor: Array | float) -> Self:
        """Multiply by a factor of shape ``batch_shape`` (or a scalar)."""
        rank = len(self.batch_shape)
        factor = jnp.asarray(factor)

        def times(leaf: Array) -> Array:
            extra = jnp.ndim(leaf) - rank if factor.ndim else 0
            return leaf * jnp.expand_dims(factor, tuple(range(-extra, 0)))

        return jax.tree.map(times, self)

    def inner(self, other: Self) -> Array:
        """:math:`\\langle \\eta, t \\rangle`, of shape ``batch_shape``."""
        rank = len(self.batch_shape)

        def pair(x: Array, y: Array) -> Array:
            return jnp.sum(x * y, axis=tuple(range(rank - jnp.ndim(x), 0)))

        return jax.tree.reduce(jnp.add, jax.tree.map(pair, self, other))


@jax.custom_vjp
def expected(natural: NaturalParameters) -> Any:
    """Read the moments of a global so that its gradient is the natural gradient.

    Because :math:`\\nabla_\\eta = F(\\eta) \\nabla_{E[t]}` with :math:`F` the Fisher
    information, handing the cotangent of :math:`E[t]` straight to :math:`\\eta`
    makes ordinary gradient descent a natural gradient step, and a step of size one
    on a conjugate model the exact posterior update (Hoffman, Blei, Wang and Paisley,
    *Stochastic variational inference*, JMLR 2013, section 2.3).

    :param natural: natural parameters of one global block.
    :return: ``natural.moments()``.
    """
    return natural.moments()


def _expected_forward(natural: NaturalParameters) -> tuple[Any, tuple]:
    moments = natural.moments()
    return moments, (natural, moments)


def _expected_backward(residuals: tuple, cotangent: Any) -> tuple[Any]:
    natural, moments = residuals
    return (natural.pull_back(cotangent, moments),)


define_vjp(expected, _expected_forward, _expected_backward)


@jax.custom_vjp
def natural_kl(natural: NaturalParameters, prior: NaturalParameters) -> Array:
    """:math:`KL(q_\\eta \\| p_{\\eta_0})` with the natural gradient with respect to q.

    The gradient with respect to :math:`E_q[t]` is :math:`\\eta - \\eta_0`; it is handed
    to :math:`\\eta` as in :func:`expected`. The gradient with respect to the prior is
    the ordinary one, :math:`E_p[t] - E_q[t]`.

    :param natural: natural parameters of the posterior.
    :param prior: natural parameters of the prior, with the same batch shape.
    :return: the divergence, of shape ``batch_shape``.
    """
    return natural.kl(prior)


def _kl_forward(natural: Any, prior: Any) -> tuple[Array, tuple[Any, Any]]:
    return natural.kl(prior), (natural, prior)


def _kl_backward(residuals: tuple[Any, Any], cotangent: Array) -> tuple[Any, Any]:
    natural, prior = residuals
    to_prior = prior.expected_statistics() - natural.expected_statistics()
    return (natural - prior).scale(cotangent), to_prior.scale(cotangent)


natural_kl.defvjp(_kl_forward, _kl_backward)
