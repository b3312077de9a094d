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

import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.blocks.gaussian import condition
from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.mixture import Mixture
from numpyro_svae.inference.positions import per_entry
from numpyro_svae.inference.posterior import LocalPosterior, observe, zero_potential
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import GaussianFactor, Structure, TableFactor

__all__ = ["infer_locals", "selected_by"]


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
            _categorical(
                evidence, name, picked[name], potentials, mean_field, posterior
            )
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


def _messages(
    evidence: Evidence, name: str, spoken: GaussianPotential | None
) -> tuple[GaussianPotential, list[GaussianFactor]]:
    """All that is said of a state that no categorical site picks components for."""
    total = zero_potential(evidence, name) if spoken is None else spoken
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
    value = jnp.sum(said.expected(mean, covariance), -1)
    kl = jnp.broadcast_to(value - log_normalizer - prior.offset, site.batch_shape)
    if site.mask is not None:
        kl = jnp.where(site.mask[..., 0], kl, 0.0)
    posterior.add(name, chain, kl)
    observe(evidence, factors, name, mean, covariance, posterior)


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
    observe(evidence, factors, name, mean, covariance, posterior)


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
    mixture = Mixture(evidence, name, said, potentials, states)
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
