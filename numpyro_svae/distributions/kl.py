# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Divergences, registered with :func:`numpyro.distributions.kl_divergence`, and what
is expected of a chain under another one."""

from copy import copy
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from numpyro.distributions.kl import kl_divergence

from numpyro_svae.blocks import chain_expectations, gaussian_chain
from numpyro_svae.blocks.chain_expectations import (
    NOISY,
    Noisy,
    noise_within,
    where_noisy,
)
from numpyro_svae.blocks.gaussian_chain import Dynamics, Gaussian
from numpyro_svae.blocks.layout import from_lanes, to_lanes
from numpyro_svae.blocks.loops import flip_steps
from numpyro_svae.distributions.chain_arguments import batch_of
from numpyro_svae.distributions.gaussian_inverse_wishart import GaussianInverseWishart
from numpyro_svae.distributions.linear_gaussian_chain import LinearGaussianChain
from numpyro_svae.distributions.matrix_normal_inverse_wishart import (
    MatrixNormalInverseWishart,
)
from numpyro_svae.distributions.normal_inverse_wishart import NormalInverseWishart
from numpyro_svae.families import RegressionNatural
from numpyro_svae.potentials import GaussianPotential

__all__ = [
    "Path",
    "as_singular",
    "expected_log_density",
    "kl_divergence",
    "posterior_entropy",
    "with_moments",
]


@kl_divergence.register(MatrixNormalInverseWishart, MatrixNormalInverseWishart)
@kl_divergence.register(NormalInverseWishart, NormalInverseWishart)
def _kl_gaussian_inverse_wishart(
    p: GaussianInverseWishart, q: GaussianInverseWishart
) -> Array:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "A divergence needs events of one shape; got "
            f"{p.event_shape} and {q.event_shape}."
        )
    batch_shape = jnp.broadcast_shapes(p.batch_shape, q.batch_shape)
    p_natural, q_natural = (
        _broadcast(d.natural_parameters, batch_shape) for d in (p, q)
    )
    return p_natural.kl(q_natural)


def _broadcast(natural: RegressionNatural, batch_shape: tuple[int, ...]):
    rank = len(natural.batch_shape)
    return jax.tree.map(
        lambda x: jnp.broadcast_to(x, batch_shape + x.shape[rank:]), natural
    )


@kl_divergence.register(LinearGaussianChain, LinearGaussianChain)
def _kl_chain_chain(p: LinearGaussianChain, q: LinearGaussianChain) -> Array:
    r"""Expected divergence of the conditionals, in the direction of ``q``."""
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"q: found event shape {q.event_shape}; accepted is that of p, "
            f"{p.event_shape}."
        )
    if p.time_reversed != q.time_reversed:
        p = p.reverse()
    own = batch_of(p)
    batch = jnp.broadcast_shapes(own, batch_of(q))
    moments = p._moments()
    if batch != own:
        moments = gaussian_chain.marginals(*p._chain(batch), p.num_steps)
    divergence = gaussian_chain.kl_divergence(p._chain(batch), moments, q._chain(batch))
    return from_lanes(divergence, 0, batch, time=False)


class Path(NamedTuple):
    """A chain as its moments, and its conditionals backwards, in the layout of blocks.

    :param moments: of the states, in the order of time.
    :param backwards: of each state given the next, in the order of time.
    """

    moments: Gaussian
    backwards: Dynamics

    @classmethod
    def of(cls, chain: LinearGaussianChain) -> "Path":
        """That of a chain; one that runs backwards, as exact posteriors do, is read."""
        chain = chain if chain.time_reversed else chain.reverse()
        backwards = chain._chain(batch_of(chain))[1]
        return cls(flip_steps(chain._moments()), flip_steps(backwards))


def with_moments(chain: LinearGaussianChain) -> LinearGaussianChain:
    """A chain whose moments are found here, and not anew where they are asked for.

    A chain that a compiled function is given, or returns, has lost those that it knew.
    It must not outlive the transformation that this is called in.
    """
    known = copy(chain)
    known._marginals = chain._moments()
    return known


def expected_log_density(
    chain: LinearGaussianChain,
    path: Path,
    batch: tuple[int, ...],
    noisy: Noisy = NOISY,
) -> Array:
    """``E log p`` of a chain under a path, without differences of large moments.

    :param chain: what runs forwards, with a batch that broadcasts to that of the path.
    :param path: the distribution of the path.
    :param batch: its batch shape.
    :param noisy: where the chain has noise.
    :return: of shape ``batch``.
    """
    value = chain_expectations.expected_log_density(chain._chain(batch), *path, noisy)
    return from_lanes(value, 0, batch, time=False)


def as_singular(
    posterior: LinearGaussianChain, chain: LinearGaussianChain, noisy: Noisy
) -> LinearGaussianChain:
    """The posterior of a singular chain in its own direction, and as singular as it is.

    Densities of both are then of the same noise.

    :param posterior: the posterior, which runs backwards.
    :param chain: what it is a posterior of.
    :param noisy: where the chain has noise.
    """
    batch = batch_of(posterior)
    found, own = posterior.reverse()._chain(batch), chain._chain(batch)
    (first, steps), (own_first, own_steps) = found, own
    initial = Gaussian(
        where_noisy(noisy.initial, first.mean, own_first.mean),
        noise_within(noisy.initial, first.cov),
    )
    dynamics = Dynamics(
        where_noisy(noisy.steps, steps.matrix, own_steps.matrix),
        where_noisy(noisy.steps, steps.bias, own_steps.bias),
        noise_within(noisy.steps, steps.cov),
    )
    singular = LinearGaussianChain._from_lanes(initial, dynamics, batch, False)
    singular.without_density = not noisy.in_entries
    return singular


def posterior_entropy(
    chain: LinearGaussianChain, potential: GaussianPotential, noisy: Noisy
) -> Array:
    """The entropy of a chain given a potential, if the chain may be singular.

    :param chain: what runs forwards.
    :param potential: batch shape ``(..., T)`` that broadcasts with the chain's.
    :param noisy: where the chain has noise, which the entropy is of.
    :return: of the joint batch shape.
    """
    batch = jnp.broadcast_shapes(batch_of(chain), potential.batch_shape[:-1])
    J = to_lanes(potential.precision, 1 if potential.is_diagonal else 2, batch)
    shape = (*J.shape[:-2], chain.num_steps, J.shape[-1])
    J = jnp.broadcast_to(J, shape)
    value = chain_expectations.posterior_entropy(*chain._chain(batch), J, noisy)
    return from_lanes(value, 0, batch, time=False)
