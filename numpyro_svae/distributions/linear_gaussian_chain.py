# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A Gaussian Markov chain as one NumPyro distribution over its whole path."""

import math

import jax
from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from numpyro_svae.blocks import gaussian_chain
from numpyro_svae.blocks.gaussian_chain import Dynamics, Gaussian
from numpyro_svae.blocks.layout import (
    events_from_lanes,
    events_to_lanes,
    from_lanes,
    to_lanes,
)
from numpyro_svae.blocks.linalg import matmul
from numpyro_svae.blocks.loops import first_steps, flip_steps, last_steps
from numpyro_svae.distributions.arguments import CheckedArguments
from numpyro_svae.distributions.chain_arguments import (
    batch_of,
    canonical_arguments,
    check_potential,
    checked_lengths,
    lanes_of,
)
from numpyro_svae.potentials import GaussianPotential

__all__ = ["LinearGaussianChain"]


class LinearGaussianChain(CheckedArguments):
    r"""Paths of a linear dynamical system with Gaussian noise.

    .. math::

        x_0 \sim N(m, P), \qquad x_{t+1} \mid x_t \sim N(F_t [x_t; u_t],\, Q_t),
        \qquad t = 0, \ldots, T - 2

    The event is the path, shape ``(T, D)``. A constant-one input makes the last column
    of :math:`F` a bias. For the transition arguments an axis of time precedes the
    matrix; a matrix without it is the same for all steps.

    :param initial_loc: :math:`m`, shape ``(..., D)``.
    :param initial_cov: :math:`P`, shape ``(..., D, D)``.
    :param transition_matrix: :math:`F`, shape ``(D, D + A)`` or
        ``(..., T - 1 or 1, D, D + A)``.
    :param transition_cov: :math:`Q`, shape ``(D, D)`` or ``(..., T - 1 or 1, D, D)``.
    :param inputs: :math:`u`, shape ``(..., T - 1, A)``, if any.
    :param num_steps: :math:`T`; needed where no argument has an axis of time. Where
        all such axes have one step, that is all there are, unless this says otherwise.
    :param time_reversed: whether the chain runs backwards: :math:`x_{T-1}` is drawn
        first and arguments are in the order of drawing, while paths are always in the
        order of time. Exact posteriors come in this form.
    :param lengths: number of states of each sequence, shape ``(...)``, if sequences are
        padded to ``T``. States of the padding are standard normal and independent.

    Covariances may be singular: some entries of the state, or directions, may move
    without noise, as the lags of a companion form do. The density is then that of the
    entries with noise, given which the others have one value.
    """

    arg_constraints = {
        "initial_loc": constraints.real_vector,
        "initial_cov": constraints.positive_semidefinite,
        "transition_matrix": constraints.independent(constraints.real, 3),
        "transition_cov": constraints.independent(constraints.positive_semidefinite, 1),
        "inputs": constraints.real_matrix,
    }
    support = constraints.real_matrix
    reparametrized_params = list(arg_constraints)
    pytree_aux_fields = ("time_reversed", "without_density")
    pytree_data_fields = (*arg_constraints, "lengths")
    without_density = False

    def __init__(
        self,
        initial_loc: ArrayLike,
        initial_cov: ArrayLike,
        transition_matrix: ArrayLike,
        transition_cov: ArrayLike,
        *,
        inputs: ArrayLike | None = None,
        num_steps: int | None = None,
        time_reversed: bool = False,
        lengths: ArrayLike | None = None,
        validate_args: bool | None = None,
    ):
        arguments, event_shape = canonical_arguments(
            initial_loc,
            initial_cov,
            transition_matrix,
            transition_cov,
            inputs,
            num_steps,
        )
        for name, value in arguments.items():
            setattr(self, name, value)
        self.time_reversed = time_reversed
        self.lengths = checked_lengths(lengths, time_reversed)
        super().__init__(batch_of(self), event_shape, validate_args=validate_args)

    @property
    def num_steps(self) -> int:
        """Number ``T`` of states."""
        return self.event_shape[0]

    # The chain in the layout of `numpyro_svae.blocks`, in the order of drawing

    def _chain(self, batch: tuple[int, ...]) -> tuple[Gaussian, Dynamics]:
        known = self.__dict__.get("_lanes")
        if known is not None and batch == batch_of(self):
            return known
        return lanes_of(self, batch)

    @classmethod
    def _from_lanes(
        cls,
        initial: Gaussian,
        dynamics: Dynamics,
        batch: tuple[int, ...],
        time_reversed: bool,
    ) -> "LinearGaussianChain":
        """A chain of per-step conditionals, kept with the layout it comes in."""
        bias = from_lanes(dynamics.bias, 1, batch)
        matrix = from_lanes(dynamics.matrix, 2, batch)
        chain = cls(
            from_lanes(initial.mean, 1, batch, time=False),
            from_lanes(initial.cov, 2, batch, time=False),
            jnp.concatenate([matrix, bias[..., None]], -1),
            from_lanes(dynamics.cov, 2, batch),
            inputs=jnp.ones(bias.shape[-2:-1] + (1,), bias.dtype),
            time_reversed=time_reversed,
            validate_args=False,
        )
        chain._lanes = initial, dynamics
        return chain

    def _in_time(self, x: Array) -> Array:
        """Between the order of drawing and the order of time, in lanes."""
        return flip_steps(x) if self.time_reversed else x

    # Sampling and density

    def _paths(self, eps: Array, located: bool = True) -> Array:
        """The path driven by standard normal ``eps (S, *batch, T, D)``."""
        batch = batch_of(self)
        initial, dynamics = self._chain(batch)
        eps = events_to_lanes(eps, batch)
        path = gaussian_chain.drive(initial, dynamics, eps, located)
        return events_from_lanes(self._in_time(path), batch)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw paths, differentiable in all arguments.

        :return: shape ``sample_shape + batch_shape + (T, D)``.
        """
        batch = batch_of(self)
        flat = (math.prod(sample_shape),) + batch + self.event_shape
        eps = jax.random.normal(key, flat, self.initial_loc.dtype)
        return self._paths(eps).reshape(sample_shape + batch + self.event_shape)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        r"""The sum of :math:`\log N(x_0; m, P)` and
        :math:`\log N(x_{t+1}; F_t [x_t; u_t], Q_t)`.

        Where entries have no noise it is the density of the others, and zero if they
        are not what these and the state before make them, to about 1e-3. That takes
        zeros in the covariance: one that is singular in directions which are no entries
        is so but for rounding, and no density is to be had from it.

        :raises ValueError: if it is the posterior of a chain with such a covariance.
        """
        if self.without_density:
            raise ValueError(
                "log_prob of a LinearGaussianChain: found the posterior of a chain "
                "whose noise is in directions that are no entries of the state. "
                "Accepted: noise in some entries and none in others; SVAE_ELBO needs "
                "no density."
            )
        batch = batch_of(self)
        shape = jnp.broadcast_shapes(jnp.shape(value)[:-2], batch)
        flat = (math.prod(shape[: len(shape) - len(batch)]),) + batch
        value = jnp.broadcast_to(value, shape + self.event_shape)
        value = events_to_lanes(value.reshape(flat + self.event_shape), batch)
        initial, dynamics = self._chain(batch)
        terms = gaussian_chain.log_density(initial, dynamics, self._in_time(value))
        return terms.reshape(shape)

    # Moments

    def _moments(self) -> Gaussian:
        """Marginal moments in the layout of the blocks, kept where that is safe."""
        known = self.__dict__.get("_marginals")
        if known is None:
            known = gaussian_chain.marginals(
                *self._chain(batch_of(self)), self.num_steps
            )
            if not isinstance(known.mean, jax.core.Tracer):
                self._marginals = known
        return known

    @property
    def mean(self) -> Array:
        """Marginal means, shape ``(..., T, D)``: ``m' = A m + b``."""
        return from_lanes(self._in_time(self._moments().mean), 1, batch_of(self))

    @property
    def mode(self) -> Array:
        """The most probable path, which is the mean."""
        return self.mean

    @property
    def covariance(self) -> Array:
        """Marginal covariances, shape ``(..., T, D, D)``: ``P' = A P A' + Q``."""
        return from_lanes(self._in_time(self._moments().cov), 2, batch_of(self))

    @property
    def variance(self) -> Array:
        """Marginal variances, shape ``(..., T, D)``."""
        return jnp.diagonal(self.covariance, axis1=-2, axis2=-1)

    @property
    def neighbor_covariance(self) -> Array:
        """``Cov(x_{t+1}, x_t)``, shape ``(..., T - 1, D, D)``: ``A_t P_t``."""
        batch = batch_of(self)
        matrix = self._in_time(self._chain(batch)[1].matrix)
        cov = self._in_time(self._moments().cov)
        drawn = last_steps if self.time_reversed else first_steps
        cov = drawn(cov, self.num_steps - 1)
        cross = from_lanes(matmul(matrix, cov), 2, batch)
        return jnp.swapaxes(cross, -1, -2) if self.time_reversed else cross

    def entropy(self) -> Array:
        r""":math:`\frac{TD}{2} \log 2\pi e + \frac12 \log\det P + \frac12 \sum_t
        \log\det Q_t`."""
        batch = batch_of(self)
        entropy = gaussian_chain.entropy(*self._chain(batch), self.num_steps)
        return from_lanes(entropy, 0, batch, time=False)

    def to_dense(self) -> dist.MultivariateNormal:
        """The same distribution of the flattened path, ``T D`` numbers."""
        num_steps, size = self.event_shape
        length, batch = num_steps * size, batch_of(self)
        eps = jnp.eye(length, dtype=self.initial_loc.dtype)
        eps = eps.reshape((length,) + (1,) * len(batch) + self.event_shape)
        eps = jnp.broadcast_to(eps, (length,) + batch + self.event_shape)
        root = self._paths(eps, located=False).reshape((length,) + batch + (length,))
        root = jnp.moveaxis(root, 0, -1)
        covariance = jnp.matmul(root, jnp.swapaxes(root, -1, -2))
        return dist.MultivariateNormal(self.mean.reshape(batch + (length,)), covariance)

    # Inference

    def condition(
        self, potential: GaussianPotential
    ) -> tuple["LinearGaussianChain", Array]:
        r"""Multiply the density by :math:`\exp \sum_t \psi_t(x_t)` and normalise.

        Filtering in the chain's own direction and conditioning backwards; see
        :mod:`numpyro_svae.blocks.gaussian_chain`.

        :param potential: batch shape ``(..., T)`` that broadcasts with the chain's.
        :return: the exact posterior, a chain that runs in the other direction, and
            :math:`\log E[\exp \sum_t \psi_t(x_t)]` under this chain, shape ``(...)``.
        """
        check_potential(potential, self.event_shape)
        batch = jnp.broadcast_shapes(batch_of(self), potential.batch_shape[:-1])
        rank = 1 if potential.is_diagonal else 2
        h = potential.info_vector
        h = jnp.broadcast_to(h, h.shape[:-2] + self.event_shape)
        h, J = to_lanes(h, 1, batch), to_lanes(potential.precision, rank, batch)
        h, J = self._in_time(h), self._in_time(J)
        initial, dynamics = self._chain(batch)
        posterior = gaussian_chain.smooth(initial, dynamics, h, J)
        chain = self._from_lanes(
            posterior.initial, posterior.dynamics, batch, not self.time_reversed
        )
        chain._marginals = posterior.marginals
        return chain, from_lanes(posterior.log_normalizer, 0, batch, time=False)

    def reverse(self) -> "LinearGaussianChain":
        """The same distribution as a chain that runs in the other direction."""
        batch = batch_of(self)
        dynamics = self._chain(batch)[1]
        marginals = self._moments()
        first, steps = gaussian_chain.reverse(marginals, dynamics)
        chain = self._from_lanes(first, steps, batch, not self.time_reversed)
        chain._marginals = flip_steps(marginals)
        return chain
