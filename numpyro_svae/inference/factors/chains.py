# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Expected log densities of chains, Gaussian and discrete, under their globals."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks.chain_expectations import NOISY, Noisy
from numpyro_svae.blocks.discrete_chain import safe_log
from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.distributions.kl import (
    Path,
    as_singular,
    expected_log_density,
    posterior_entropy,
)
from numpyro_svae.families import ExpectedRegression
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.run.positions import per_entry
from numpyro_svae.program.run.steps import log_probs_of
from numpyro_svae.program.structure.factors import Factor, GaussianFactor, Source

__all__ = ["ChainPrior", "chain_prior", "discrete_prior", "log_probs"]


@dataclass(frozen=True)
class ChainPrior:
    """Expected log density of a chain: a chain, a left-over potential, a constant.

    :param noisy: where the chain has noise; densities are of what is there.
    :param joined: whether the first state is of a factor of several sites, which is
        counted apart.
    """

    chain: LinearGaussianChain
    leftover: GaussianPotential | None
    offset: Array
    noisy: Noisy = NOISY
    joined: bool = False

    def condition(self, message: GaussianPotential) -> LinearGaussianChain:
        """The posterior given a potential, backwards."""
        return self.chain.condition(self._with_leftover(message))[0]

    def infer(
        self, message: GaussianPotential
    ) -> tuple[LinearGaussianChain, Path, Array]:
        """The posterior given a potential, its path, and its entropy."""
        posterior, noisy = self.condition(message), self.noisy
        path = Path.of(posterior)
        if noisy.everywhere:
            return posterior, path, posterior.entropy()
        entropy = posterior_entropy(self.chain, self._with_leftover(message), noisy)
        return as_singular(posterior, self.chain, noisy), path, entropy

    def _with_leftover(self, message: GaussianPotential) -> GaussianPotential:
        return message if self.leftover is None else message + self.leftover

    def expected(self, path: Path, mean: Array, covariance: Array) -> Array:
        """The log density expected of a path.

        :param path: the distribution of the path.
        :param mean: its means, of shape ``(..., T, D)``.
        :param covariance: its covariances, of shape ``(..., T, D, D)``.
        :return: of shape ``(...)``.
        """
        batch, counted = mean.shape[:-2], self.noisy
        if self.joined:
            counted = counted._replace(initial=np.zeros((mean.shape[-1], 0)))
        value = expected_log_density(self.chain, path, batch, counted) + self.offset
        if self.leftover is None:
            return value
        return value + jnp.sum(self.leftover.expected(mean, covariance), -1)


def chain_prior(
    factors: ExpectedFactors, name: str, own: GaussianPotential | None = None
) -> ChainPrior:
    """Expected log density of a Gaussian chain.

    ``E log N(x'; F u, Q)`` is a proper transition times ``exp(-u' excess u / 2)``, a
    potential on the state in ``u = [x; inputs]``, times a constant.

    :param factors: the factors, averaged over the states of their selectors.
    :param name: the site of the chain.
    :param own: the message to the first state from its prior, where that is a factor of
        several sites.
    """
    fn: Any = factors.site(name).fn
    initial, transition = (factors.own(name, r) for r in ("initial", "transition"))
    first = fn.initial_loc, fn.initial_cov
    later = fn.transition_matrix, fn.transition_cov
    offset, leftover = jnp.zeros(()), None
    noisy = Noisy(*(f.support and f.support.basis for f in (initial, transition)))
    if initial.coupled:
        first = _first(fn, own)
    elif initial.source != Source():
        regression = factors.regression(initial)
        weight, cov = _in_all_rows(factors, initial, regression)
        first = weight[..., 0], cov
        constant = messages.normalizer_gap(regression)
        constant = constant - 0.5 * regression.excess[..., 0, 0]
        offset = offset + per_entry(constant, factors.extent(initial))
    if transition.source != Source() and fn.num_steps > 1:
        regression = factors.regression(transition)
        later = _in_all_rows(factors, transition, regression)
        leftover, constant = _leftover(regression, fn)
        constant = constant + messages.normalizer_gap(regression)
        offset = offset + per_entry(constant, factors.extent(transition))
    chain = LinearGaussianChain(
        *first,
        *later,
        inputs=fn.inputs,
        num_steps=fn.num_steps,
        lengths=fn.lengths,
        validate_args=False,
    )
    return ChainPrior(chain, leftover, offset, noisy, initial.coupled)


def _first(fn: Any, own: GaussianPotential | None) -> tuple[Array, Array]:
    """Moments of a first state by what its prior says; standard if it says nothing."""
    if own is None:
        zero = jnp.zeros_like(fn.initial_loc)
        return zero, jnp.broadcast_to(jnp.eye(zero.shape[-1]), fn.initial_cov.shape)
    info, precision = own.info_vector[..., 0, :], own.full_precision()[..., 0, :, :]
    return messages.proper(GaussianPotential(info, precision))[:2]


def _in_all_rows(
    factors: ExpectedFactors, factor: GaussianFactor, regression: ExpectedRegression
) -> tuple[Array, Array]:
    """The weight and the covariance of a part of a chain, with rows without noise."""
    weight, covariance, support = *regression[:2], factor.support
    if support is None:
        return weight, covariance
    fixed: Any = factors.bound.regressions[factor.site, factor.role].fixed
    return support.shown(weight) + fixed, support.shown_covariance(covariance)


def _leftover(
    step: ExpectedRegression, fn: LinearGaussianChain
) -> tuple[GaussianPotential, Array]:
    """``-u' excess u / 2`` of every step: a potential on the states, and constants."""
    (num_steps, dim), inputs = fn.event_shape, fn.inputs
    excess = step.excess
    if excess.ndim == 2:
        excess = excess[None]  # the same at every step
    cross, own = excess[..., :dim, dim:], excess[..., dim:, dim:]
    info = -jnp.einsum("...tij,...tj->...ti", cross, inputs)
    constant = -0.5 * jnp.einsum("...ti,...tij,...tj->...t", inputs, own, inputs)
    info = _then_nothing(info, num_steps, 1)
    precision = _then_nothing(excess[..., :dim, :dim], num_steps, 2)
    if fn.lengths is not None:  # the last state has no step after it
        more = jnp.arange(1, num_steps + 1) < fn.lengths[..., None]
        info = jnp.where(more[..., None], info, 0.0)
        precision = jnp.where(more[..., None, None], precision, 0.0)
    batch = jnp.broadcast_shapes(info.shape[:-1], precision.shape[:-2])
    if precision.ndim == 3:  # shared by all sequences
        precision = jnp.expand_dims(precision, tuple(range(len(batch) - 1)))
    info = jnp.broadcast_to(info, (*batch, dim))
    return GaussianPotential(info, precision), constant


def _then_nothing(x: Array, num_steps: int, event_dim: int) -> Array:
    """Values of the steps at the states that they start from; zero at the last."""
    axis = x.ndim - event_dim - 1
    shape = list(x.shape)
    shape[axis] = num_steps - 1
    x = jnp.broadcast_to(x, shape)
    return jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)])


def discrete_prior(factors: ExpectedFactors, name: str) -> tuple[Array, Array]:
    """Expected log probabilities of a discrete chain.

    :return: of the first state, ``(..., K)``, and of the steps,
        ``(..., T - 1 or 1, K, K)``.
    """
    fn: Any = factors.site(name).fn
    initial = _log_probs(
        factors, factors.own(name, "initial"), safe_log(fn.initial_probs)
    )
    rows = factors.own(name, "transition")
    steps = _log_probs(factors, rows, fn.log_transition_probs)
    if steps.ndim == 2:
        steps = steps[None]
    if fn.lengths is None:
        return initial, steps
    uniform = -log(initial.shape[-1])  # past the end of a sequence
    exists = fn.lengths[..., None] > jnp.arange(fn.num_steps)
    initial = jnp.where(exists[..., :1], initial, uniform)
    return initial, jnp.where(exists[..., 1:, None, None], steps, uniform)


def log_probs(factors: ExpectedFactors, name: str) -> Array:
    """Expected log probabilities of a categorical site, ``(..., K)``.

    They are zero where its prior is one of the factors of several sites.
    """
    factor = factors.own(name)
    if factor.coupled:
        return jnp.zeros(factors.local(name).size)
    given = log_probs_of(factors.site(name).fn)
    return _log_probs(factors, factor, given)


def _log_probs(factors: ExpectedFactors, factor: Factor, given: Array) -> Array:
    """Expected logs, where given ones are those of a run at the plain values."""
    if factor.form == "logits":
        return factors.expected_rows[factor.site]
    if factor.form == "weights":
        return factors.rows(factor)
    return given if factor.source.prior is None else factors.rows(factor)
