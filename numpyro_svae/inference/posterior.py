# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior of the local sites of a program."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.inference.evidence import Evidence
from numpyro_svae.inference.positions import per_entry
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.factors import GaussianFactor

__all__ = ["LocalPosterior", "gaussian_of", "observe", "zero_potential"]


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
        """Distribution of a site given the state of its selector, if it has one."""
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


def zero_potential(evidence: Evidence, name: str) -> GaussianPotential:
    """The potential that says nothing of a site."""
    site = evidence.site(name)
    zeros = jnp.zeros((*site.positions, evidence.structure.locals[name].size))
    return GaussianPotential(zeros, zeros)


def gaussian_of(mean: Array, covariance: Array) -> dist.MultivariateNormal:
    """Gaussian with a given mean and covariance."""
    tril = jnp.linalg.cholesky(covariance)
    return dist.MultivariateNormal(mean, scale_tril=tril, validate_args=False)


def observe(
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
