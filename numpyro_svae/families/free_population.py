# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The divergence of a Gamma posterior from a prior whose parameters are learnt too.

The prior ``log p(x | y)`` of a scale is averaged over the posteriors of the scale and
of the one or two unknowns y that it has for parameters, by quadrature over all of them.
It sends each of them the gradient of that average, as in
:mod:`~numpyro_svae.families.free_prior`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.families.free_prior import closest_at
from numpyro_svae.families.gamma import GammaNatural
from numpyro_svae.families.gamma_nodes import gamma_nodes
from numpyro_svae.families.gaussian import GaussianNatural

__all__ = ["Parent", "population_kl"]

_OWN, _ABOVE, _HERMITE = 160, 96, 24  # nodes


class Given(Protocol):
    """A prior whose parameters are functions of unknowns, each of one entry of them."""

    def log_density(self, values: tuple[Array, ...], log_precision: Array) -> Array:
        """Of the logs of precisions ``(N, *shape)``.

        :param values: of the unknowns: logs of those that are Gammas.
        """


class Parent(NamedTuple):
    """The posterior of an unknown that a prior has for a parameter.

    :param natural: its natural parameters, of a Gamma or of Gaussian numbers.
    :param entries: which of its entries, one after the other, each scale depends on, of
        the shape of the scales.
    """

    natural: Any
    entries: Any


class _Nodes(NamedTuple):
    """Values of an unknown ``(J, *its shape)`` and weights ``(J, *its shape)``."""

    values: Array
    weights: Array
    send: Callable[[Array], Any]


def _nodes(natural: Any) -> _Nodes:
    if isinstance(natural, GammaNatural):
        own = gamma_nodes(natural, _ABOVE)
        send = partial(closest_at, own, natural=natural)
        return _Nodes(own.logs, own.weights, send)
    points, masses = np.polynomial.hermite_e.hermegauss(_HERMITE)
    mean, variance = natural.moments()
    scale = jnp.sqrt(variance[..., 0])
    z, weights = (
        jnp.asarray(x, mean.dtype).reshape(-1, *(1,) * mean.ndim)
        for x in (points, masses / np.sum(masses))
    )

    def send_gaussian(values: Array) -> GaussianNatural:
        centred = weights * (values - jnp.sum(weights * values, 0))
        slope = jnp.sum(centred * z, 0) / scale
        bend = jnp.sum(centred * (z**2 - 1), 0) / scale**2
        return GaussianNatural(slope - bend * mean, -bend[..., None])

    shape = (len(points), *mean.shape)
    return _Nodes(mean + scale * z, jnp.broadcast_to(weights, shape), send_gaussian)


class _Table(NamedTuple):
    """Log densities at all nodes, ``(*J, N, *shape)``, and weights that broadcast."""

    values: Array
    own: Array
    above: tuple[Array, ...]

    def mean(self, kept: int | None) -> Array:
        """The average over all nodes but those of one axis, which comes first."""
        found, rank = self.values, len(self.above)
        for axis, weights in reversed([*enumerate(self.above), (rank, self.own)]):
            if axis != kept:
                lead, shape = weights.shape[:1], weights.shape[1:]
                inner = (1,) * (found.ndim - axis - 1 - len(shape))
                found = jnp.sum(found * weights.reshape(*lead, *inner, *shape), axis)
        return found


def _table(given: Any, own: Any, parents: tuple[Parent, ...]) -> _Table:
    nodes = [_nodes(parent.natural) for parent in parents]

    def at(*values: Array) -> Array:
        return given.log_density(values, own.logs)

    table = at
    for axis in reversed(range(len(nodes))):
        table = jax.vmap(
            table, tuple(0 if i == axis else None for i in range(len(nodes)))
        )
    found = table(*(n.values for n in nodes))
    above = tuple(
        n.weights.reshape(len(n.weights), -1)[:, p.entries]
        for n, p in zip(nodes, parents)
    )
    return _Table(found, own.weights, above)


@jax.custom_vjp
def population_kl(
    natural: GammaNatural, parents: tuple[Parent, ...], given: Any
) -> Array:
    """The expected divergence of a Gamma from a prior, with natural gradients.

    :param natural: the posterior.
    :param parents: those of the unknowns that the prior depends on.
    :param given: the prior (see :class:`Given`), a pytree.
    :return: the divergence, of the batch shape of the posterior.
    """
    own = gamma_nodes(natural, _OWN)
    return own.mean(own.log_density) - _table(given, own, parents).mean(None)


def _forward(natural: Any, parents: Any, given: Any) -> tuple[Array, tuple]:
    return population_kl(natural, parents, given), (natural, parents, given)


def _backward(known: tuple, cotangent: Array) -> tuple:
    natural, parents, given = known
    own = gamma_nodes(natural, _OWN)
    table = _table(given, own, parents)
    message = closest_at(own, table.mean(len(parents)), natural)
    sent = []
    for index, parent in enumerate(parents):
        nodes = _nodes(parent.natural)
        values = table.mean(index) * -cotangent
        flat = values.reshape(len(values), -1)
        total = jnp.zeros((len(values), nodes.values[0].size), values.dtype)
        total = total.at[:, parent.entries.ravel()].add(flat)
        sent.append(nodes.send(total.reshape(nodes.values.shape)))

    def expected(given: Any) -> Array:
        return _table(given, own, parents).mean(None)

    (to_given,) = jax.vjp(expected, given)[1](-cotangent)
    none = [np.zeros(p.entries.shape, jax.dtypes.float0) for p in parents]
    to_parents = tuple(Parent(*pair) for pair in zip(sent, none))
    return (natural - message).scale(cotangent), to_parents, to_given


population_kl.defvjp(_forward, _backward)
