# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Joint inference of a categorical site and the Gaussian sites that it selects."""

from __future__ import annotations

from dataclasses import dataclass

from jax import Array
from jax.nn import log_softmax, softmax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
import numpyro.distributions as dist

from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.fixed_point import (
    SelectedState,
    mean_field_logits,
    state_given_probs,
)
from numpyro_svae.inference.messages import GaussianMessage
from numpyro_svae.inference.positions import counted
from numpyro_svae.inference.posterior import (
    LocalPosterior,
    gaussian_of,
    observe,
    zero_potential,
)
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import GaussianFactor

__all__ = ["Mixture"]


@dataclass
class Mixture:
    """A categorical site and the Gaussian sites that it picks components for.

    Arrays have positions, then the states K, then the event.

    :param said: messages of data to the categorical site alone, ``(*positions, K)``.
    """

    evidence: Evidence
    name: str
    said: Array
    potentials: dict[str, GaussianPotential]
    states: list[str]

    def _prior(self, state: str) -> GaussianMessage:
        prior = self.evidence.gaussian_prior(state)
        if self.evidence.own(state).selector is None:
            return GaussianMessage(
                prior.loc[..., None, :],
                prior.covariance[..., None, :, :],
                prior.offset[..., None],
            )
        return prior

    def _said_of(
        self, state: str
    ) -> tuple[GaussianPotential, Array, list[GaussianFactor]]:
        """Potential by state K, its constant, and the factors that it comes from."""
        spoken = self.potentials.get(state)
        spoken = zero_potential(self.evidence, state) if spoken is None else spoken
        total = _with_states(spoken)
        constant = jnp.zeros(())
        factors = self.evidence.observed(GaussianFactor, parent=state)
        for factor in factors:
            message = self.evidence.parent_message(factor, state)
            if factor.selector is None:
                total = total + _with_states(message.potential)
            else:
                total = total + message.potential
                constant = constant + message.constant
        return total, constant, factors

    def exact(self, posterior: LocalPosterior) -> Array:
        """The joint q(z, x): a mixture of Gaussians at each position."""
        log_prior = self.evidence.log_prior(self.name)
        logits = log_prior + self.said
        said = self.said
        inside: dict[str, tuple[Array, Array, Array, list[GaussianFactor]]] = {}
        for state in self.states:
            prior = self._prior(state)
            potential, constant, factors = self._said_of(state)
            mean, covariance, tril, log_normalizer = condition(
                prior.loc, prior.covariance, potential
            )
            logits = logits + log_normalizer + prior.offset + constant
            said = said + potential.expected(mean, covariance) + constant
            inside[state] = (mean, covariance, tril, factors)
        log_probs = log_softmax(logits, -1)
        probs = jnp.exp(log_probs)
        site = self.evidence.site(self.name)
        kl = jnp.sum(probs * said, -1) - logsumexp(logits, -1)
        categorical = dist.Categorical(logits=log_probs, validate_args=False)
        posterior.add(self.name, categorical, counted(kl, site))
        for state, (mean, covariance, tril, factors) in inside.items():
            self._add_component(state, mean, tril, categorical, posterior)
            observe(self.evidence, factors, state, mean, covariance, posterior, probs)
        return log_probs

    def _add_component(
        self,
        state: str,
        mean: Array,
        tril: Array,
        categorical: dist.Distribution,
        posterior: LocalPosterior,
    ) -> None:
        parts = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
        mixture = dist.MixtureSameFamily(categorical, parts, validate_args=False)
        zero = jnp.zeros(self.evidence.site(state).batch_shape)
        posterior.add(state, mixture, zero)

    def mean_field(self, posterior: LocalPosterior) -> Array:
        """q(z) q(x) at the fixed point of block coordinate ascent."""
        log_prior = self.evidence.log_prior(self.name)
        said_of = {state: self._said_of(state) for state in self.states}
        parts = [
            SelectedState.of(self._prior(state), potential, constant, self.said.shape)
            for state, (potential, constant, _) in said_of.items()
        ]
        logits = mean_field_logits(log_prior + self.said, parts)
        probs = softmax(logits, -1)
        kl = jnp.sum(probs * (logits - log_prior), -1) - logsumexp(logits, -1)
        categorical = dist.Categorical(logits=logits, validate_args=False)
        site = self.evidence.site(self.name)
        posterior.add(self.name, categorical, counted(kl, site))
        for (state, (_, _, factors)), part in zip(said_of.items(), parts):
            mean, covariance, kl = state_given_probs(part, probs)
            site = self.evidence.site(state)
            posterior.add(state, gaussian_of(mean, covariance), counted(kl, site))
            observe(self.evidence, factors, state, mean, covariance, posterior, probs)
        return log_softmax(logits, -1)


def _with_states(potential: GaussianPotential) -> GaussianPotential:
    """The same potential for each state of a categorical site."""
    return GaussianPotential(
        potential.info_vector[..., None, :], potential.full_precision()[..., None, :, :]
    )
