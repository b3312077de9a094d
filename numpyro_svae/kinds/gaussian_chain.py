# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A Gaussian path: linear dynamical systems."""

from __future__ import annotations

from collections.abc import Collection
import math
from typing import Any, ClassVar

from jax import Array, random
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.inference.factors import messages
from numpyro_svae.inference.factors.chains import chain_prior
from numpyro_svae.inference.factors.expected_factors import ExpectedFactors
from numpyro_svae.inference.local.beliefs import StateBelief
from numpyro_svae.inference.local.kinds import GaussianKind
from numpyro_svae.potentials import GaussianPotential
from numpyro_svae.program.read.gaussians import read_chain
from numpyro_svae.program.read.wiring import Wiring
from numpyro_svae.program.run.positions import per_path
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Factor

__all__ = ["GaussianChainKind"]

_PARAMETERS = (
    "initial_loc",
    "initial_cov",
    "transition_matrix",
    "transition_cov",
    "inputs",
)


class GaussianChainKind(GaussianKind):
    """``LinearGaussianChain``, as one site or spelled by a ``scan``."""

    name = "chain"
    distributions: ClassVar[tuple[type[dist.Distribution], ...]] = (
        LinearGaussianChain,
    )
    chain = True

    def parameters(self, site: Site) -> dict[str, Any]:
        return {name: getattr(site.fn, name) for name in _PARAMETERS}

    def size(self, site: Site) -> int:
        return site.fn.event_shape[-1]

    def read(self, wiring: Wiring, site: Site) -> list[Factor]:
        return read_chain(wiring, site)

    def read_observed(
        self, wiring: Wiring, site: Site, blocks: Collection[str]
    ) -> list[Factor]:
        return read_chain(wiring, site) if wiring.used(site.name) else []

    def infer(
        self,
        factors: ExpectedFactors,
        name: str,
        message: GaussianPotential,
        own: GaussianPotential | None,
    ) -> StateBelief:
        posterior, path, entropy = chain_prior(factors, name, own).infer(message)
        entropy = per_path(entropy, factors.extent(name))
        moments = posterior.mean, posterior.covariance
        return StateBelief(*moments, path, entropy, posterior)

    def expected_prior(
        self, factors: ExpectedFactors, name: str, belief: StateBelief
    ) -> Array:
        moments: tuple[Any, ...] = belief.path, belief.mean, belief.covariance
        value = chain_prior(factors, name).expected(*moments)
        return per_path(value, factors.extent(name))

    def scores(
        self, factors: ExpectedFactors, factor: Any, belief: StateBelief
    ) -> Array:
        regression, support = factors.regression(factor), factor.support
        if factor.role == "transition":
            inputs = factors.site(factor.site).fn.inputs
            basis = None if support is None else support.basis
            path = belief.marginal
            return messages.expected_transitions(regression, path, inputs, basis)
        mean, covariance = belief.mean[..., 0, :], belief.covariance[..., 0, :, :]
        if support is not None:
            mean = support.seen_vector(mean)
            covariance = support.seen_covariance(covariance)
        return messages.expected_response(
            regression,
            factors.regressor(factor)[..., None, :],
            mean[..., None, :],
            covariance[..., None, :, :],
        )

    def draw_on(self, fn: Any, state: Array, key: Array) -> Array:
        free = LinearGaussianChain(
            state,
            fn.initial_cov,
            fn.transition_matrix,
            fn.transition_cov,
            inputs=fn.inputs,
            num_steps=fn.num_steps,
            validate_args=False,
        )
        shape = (1, *state.shape[:-1], *fn.event_shape)
        noise = random.normal(key, shape, state.dtype).at[..., 0, :].set(0.0)
        return free._paths(noise)[0]

    def log_steps(self, fn: Any, before: Array, after: Array) -> Array:
        size = before.shape[-1]
        steps = LinearGaussianChain(  # of two states each, which knows zero noise
            before,
            jnp.eye(size, dtype=before.dtype),
            fn.transition_matrix[..., None, :, :],
            fn.transition_cov[..., None, :, :],
            inputs=fn.inputs[..., None, :],
            num_steps=2,
            validate_args=False,
        )
        both = steps.log_prob(jnp.stack([before, after], -2))
        return both + 0.5 * size * math.log(2 * math.pi)

    def begin_with(self, fn: Any, belief: Any) -> dist.Distribution:
        mean, covariance = belief
        return LinearGaussianChain(
            mean,
            covariance,
            fn.transition_matrix,
            fn.transition_cov,
            inputs=fn.inputs,
            num_steps=2,
            validate_args=False,
        )
