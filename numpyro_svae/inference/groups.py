# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Exact and mean-field inference in groups of coupled local sites.

A group is a Gaussian site or chain by itself, a categorical site by itself, or a
categorical site with the Gaussian sites that it picks components for. Each has

    q(local)  proportional to  exp(expected log prior + messages of data + potentials)

and a divergence from its expected prior in closed form (Johnson et al., NIPS 2016,
section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
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
from numpyro_svae.inference.positions import counted, per_entry
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import GaussianFactor, Structure, TableFactor

__all__ = ["LocalPosterior", "infer_locals", "selected_by"]


@jax.tree_util.register_dataclass
@dataclass
class LocalPosterior:
    """The posterior of the local sites of a program.

    :param marginals: for each local site, its marginal distribution.
    :param kl: divergences from the expected prior, per entry of the batch.
    :param expected_log_prob: closed-form likelihood terms, by observed site.
    :param average: probabilities of the discrete sites that likelihoods are to be
        averaged over.
    """

    marginals: dict[str, dist.Distribution] = field(default_factory=dict)
    kl: dict[str, Array] = field(default_factory=dict)
    expected_log_prob: dict[str, Array] = field(default_factory=dict)
    average: dict[str, Array] = field(default_factory=dict)

    def add(self, name: str, marginal: dist.Distribution, kl: Array) -> None:
        """Add a site."""
        self.marginals[name] = marginal
        self.kl[name] = kl

    def given(self, name: str, state: Array | None) -> dist.Distribution:
        """Distribution of a site given the state of the site that selects it, if any."""
        marginal = self.marginals[name]
        if state is None or not isinstance(marginal, dist.MixtureSameFamily):
            return marginal
        parts = marginal.component_distribution
        index = state[..., None, None]
        loc = jnp.take_along_axis(parts.loc, index, -2)[..., 0, :]
        tril = jnp.take_along_axis(parts.scale_tril, index[..., None], -3)
        return dist.MultivariateNormal(
            loc, scale_tril=tril[..., 0, :, :], validate_args=False
        )


def infer_locals(
    evidence: Evidence, potentials: dict[str, GaussianPotential], mean_field: bool
) -> LocalPosterior:
    """Infer all local sites.

    :param evidence: the factors.
    :param potentials: what the recognition function says, by site.
    :param mean_field: whether coupled sites are made independent under the guide.
    :return: their posterior.
    """
    posterior = LocalPosterior()
    posterior.expected_log_prob.update(evidence.data_log_probs())
    structure = evidence.structure
    picked = selected_by(structure)
    for name, local in structure.locals.items():
        if local.kind == "chain":
            _chain(evidence, name, potentials.get(name), posterior)
        elif local.kind == "categorical":
            _categorical(evidence, name, picked[name], potentials, mean_field, posterior)
        elif not any(name in states for states in picked.values()):
            _gaussian(evidence, name, potentials.get(name), posterior)
    return posterior


def selected_by(structure: Structure) -> dict[str, list[str]]:
    """The Gaussian sites that each categorical site is coupled to."""
    picked: dict[str, list[str]] = {
        name: []
        for name, local in structure.locals.items()
        if local.kind == "categorical"
    }
    for factor in structure.factors:
        if isinstance(factor, GaussianFactor) and factor.selector is not None:
            state = factor.site if factor.site in structure.locals else factor.parent
            if state is not None and state not in picked[factor.selector]:
                picked[factor.selector].append(state)
    return picked


def _zero_potential(evidence: Evidence, name: str) -> GaussianPotential:
    site = evidence.site(name)
    zeros = jnp.zeros((*site.positions, evidence.structure.locals[name].size))
    return GaussianPotential(zeros, zeros)


def _gaussian_of(mean: Array, covariance: Array) -> dist.MultivariateNormal:
    tril = jnp.linalg.cholesky(covariance)
    return dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)


def _messages(
    evidence: Evidence, name: str, spoken: GaussianPotential | None
) -> tuple[GaussianPotential, list[GaussianFactor]]:
    """All that is said of a state that no categorical site picks components for."""
    total = _zero_potential(evidence, name) if spoken is None else spoken
    factors = evidence.observed(GaussianFactor, parent=name)
    for factor in factors:
        total = total + evidence.parent_message(factor, name).potential
    return total, factors


def _chain(
    evidence: Evidence,
    name: str,
    spoken: GaussianPotential | None,
    posterior: LocalPosterior,
) -> None:
    site = evidence.site(name)
    prior = evidence.chain_prior(name)
    said, factors = _messages(evidence, name, spoken)
    total = said if prior.leftover is None else said + prior.leftover
    chain, log_normalizer = prior.chain.condition(total)
    mean, covariance = chain.mean, chain.covariance
    said = jnp.sum(said.expected(mean, covariance), -1)
    kl = jnp.broadcast_to(said - log_normalizer - prior.offset, site.batch_shape)
    if site.mask is not None:
        kl = jnp.where(site.mask[..., 0], kl, 0.0)
    posterior.add(name, chain, kl)
    _observe(evidence, factors, name, mean, covariance, posterior)


def _gaussian(
    evidence: Evidence,
    name: str,
    spoken: GaussianPotential | None,
    posterior: LocalPosterior,
) -> None:
    site = evidence.site(name)
    prior = evidence.gaussian_prior(name)
    said, factors = _messages(evidence, name, spoken)
    mean, covariance, tril, log_normalizer = condition(
        prior.loc, prior.covariance, said
    )
    kl = said.expected(mean, covariance) - log_normalizer - prior.offset
    marginal = dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
    marginal = marginal.to_event(site.extra)
    posterior.add(name, marginal, per_entry(kl, site))
    _observe(evidence, factors, name, mean, covariance, posterior)


def _observe(
    evidence: Evidence,
    factors: list[GaussianFactor],
    name: str,
    mean: Array,
    covariance: Array,
    posterior: LocalPosterior,
    probs: Array | None = None,
) -> None:
    """Closed-form likelihood terms of the observations of a state.

    :param probs: of the states of a categorical site, if the moments depend on it or
        the factors do.
    """
    for factor in factors:
        site = evidence.site(factor.site)
        value = evidence.expected_log_prob(factor, name, mean, covariance)
        if probs is not None and value.ndim > len(site.positions):
            value = jnp.sum(probs * value, -1)
        posterior.expected_log_prob[factor.site] = per_entry(value, site)


def _categorical(
    evidence: Evidence,
    name: str,
    states: list[str],
    potentials: dict[str, GaussianPotential],
    mean_field: bool,
    posterior: LocalPosterior,
) -> None:
    site = evidence.site(name)
    tables = [
        factor
        for kind in (GaussianFactor, TableFactor)
        for factor in evidence.observed(kind, selector=name)
        if getattr(factor, "parent", None) is None
    ]
    size = evidence.structure.locals[name].size
    said = jnp.zeros((*site.positions, size))
    for factor in tables:
        said = said + evidence.table_message(factor, name)
    mixture = _Mixture(evidence, name, said, potentials, states)
    solve = mixture.mean_field if mean_field and states else mixture.exact
    log_probs = solve(posterior)
    probs = jnp.exp(log_probs)
    for factor in tables:
        observed = evidence.site(factor.site)
        table = jnp.where(probs > 0, evidence.table(factor), 0.0)
        value = jnp.sum(probs * table, -1)
        if isinstance(factor, GaussianFactor):
            value = per_entry(value, observed)
        posterior.expected_log_prob[factor.site] = value
    sampled = {name} if mean_field else {name, *states}
    if any(sampled & used for used in evidence.structure.likelihoods.values()):
        posterior.average[name] = probs


@dataclass
class _Mixture:
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
            prior = jax.tree.map(jnp.asarray, prior)
            return GaussianMessage(
                prior.loc[..., None, :],
                prior.covariance[..., None, :, :],
                prior.offset[..., None],
            )
        return prior

    def _said_of(self, state: str) -> tuple[GaussianPotential, Array, list[Any]]:
        """Potential by state K, its constant, and the factors that it comes from."""
        spoken = self.potentials.get(state)
        spoken = _zero_potential(self.evidence, state) if spoken is None else spoken
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
        inside: dict[str, tuple[Array, Array, Array, list[Any]]] = {}
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
            _observe(
                self.evidence, factors, state, mean, covariance, posterior, probs
            )
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
            posterior.add(state, _gaussian_of(mean, covariance), counted(kl, site))
            _observe(self.evidence, factors, state, mean, covariance, posterior, probs)
        return log_softmax(logits, -1)


def _with_states(potential: GaussianPotential) -> GaussianPotential:
    """The same potential for each state of a categorical site."""
    return GaussianPotential(
        potential.info_vector[..., None, :], potential.full_precision()[..., None, :, :]
    )
