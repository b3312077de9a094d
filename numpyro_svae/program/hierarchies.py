# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognises priors of global blocks that depend on other global blocks."""

from __future__ import annotations

from typing import Any

import jax

from numpyro_svae.program.gaussian_prior import GaussianPrior
from numpyro_svae.program.noise_priors import PrecisionPrior
from numpyro_svae.program.populations import Population
from numpyro_svae.program.priors import RegressionPrior
from numpyro_svae.program.probing import Prober
from numpyro_svae.program.rate_populations import RatePopulation
from numpyro_svae.program.rate_priors import GammaPrior
from numpyro_svae.program.spreads import SpreadPrior
from numpyro_svae.program.wiring import Wiring, listed

__all__ = ["AnyPopulation", "bind_populations", "read_populations"]

AnyPopulation = Population | RatePopulation
_GAUSSIAN = (
    "a location that is affine in other global Gaussian sites, and a covariance that "
    "is known or that of one other site, times known numbers: an InverseWishart, the "
    "scale 1 / sqrt(alpha) of one Gamma site alpha for all entries or some, or sqrt of "
    "an InverseGamma site; or a location and a covariance of one joint prior. Data may "
    "pick from batches, as in top[region]. Write numpyro.sample('mu', "
    "dist.MultivariateNormal(top, S)) or dist.Normal(top, 1 / jnp.sqrt(alpha))"
)
_GAMMA = "a fixed shape and a rate that is a Gamma site times known numbers"
_FIXED = "fixed values or numpyro.param"


def read_populations(wiring: Wiring) -> dict[str, AnyPopulation]:
    """The priors of blocks that depend on other blocks, by block.

    :raises ValueError: naming the site, if such a prior is not conjugate.
    """
    prober, above = wiring.prober, dict[str, frozenset[str]]()
    for name, block in prober.priors.items():
        used = frozenset().union(*map(wiring.used, block.sites)) - {*block.sites}
        above |= {name: used} if used else {}
    found = dict[str, AnyPopulation]()
    for name, used in above.items():
        candidate = _candidate(wiring, name, used)
        if candidate is None:
            raise _refused(wiring, name, used)
        found[name] = candidate
    if not found:
        return found

    @jax.jit
    def shown(values: dict[str, Any]) -> dict[str, Any]:
        sites = prober.program.sites(values)
        return {name: p.shown(sites) for name, p in found.items()}

    bound = bind_populations(found, prober)
    for values in prober.probes():
        run = shown(values)
        for name, population in found.items():
            if not population.agrees(bound[name], values, run[name]):
                raise _refused(wiring, name, above[name])
    return found


def bind_populations(
    populations: dict[str, AnyPopulation], prober: Prober
) -> dict[str, Any]:
    """What a program gives of the priors that depend on other blocks, by block."""

    @jax.jit
    def bind() -> dict[str, Any]:
        return {name: p.bind(prober) for name, p in populations.items()}

    return bind() if populations else {}


def _candidate(wiring: Wiring, name: str, used: frozenset[str]) -> AnyPopulation | None:
    """The only prior that there may be, given the kinds of the sites."""
    block = wiring.prober.priors[name]
    if not used <= {*wiring.block_of}:
        return None
    names = {wiring.block_of[site].name for site in used}
    above = [p for p in wiring.prober.priors.values() if p.name in names]
    if isinstance(block, GaussianPrior):
        parents = tuple(p for p in above if isinstance(p, GaussianPrior))
        noises = [p for p in above if not isinstance(p, GaussianPrior)]
        if not noises:
            return Population(block, parents, None)
        noise = noises[0]
        if len(noises) > 1 or not isinstance(noise, SpreadPrior):
            return None
        size = (1, *block.event_shape)[-1]
        if not isinstance(noise, PrecisionPrior) and noise.dim != size:
            return None
        return Population(block, parents, noise)
    if isinstance(block, PrecisionPrior | GammaPrior) and len(above) == 1:
        rate = above[0]
        if isinstance(rate, PrecisionPrior | GammaPrior):
            return RatePopulation(block, rate)
    return None


def _refused(wiring: Wiring, name: str, used: frozenset[str]) -> ValueError:
    block, accepted = wiring.prober.priors[name], _FIXED
    if isinstance(block, GaussianPrior):
        accepted = f"{_FIXED}; or {_GAUSSIAN}"
    elif isinstance(block, PrecisionPrior | GammaPrior):
        accepted = f"{_FIXED}; or {_GAMMA}"
    elif isinstance(block, RegressionPrior):
        accepted = (
            f"{_FIXED}; or priors of location and covariance that are independent of "
            "each other, of which that of the location may depend on global sites"
        )
    kind = type(wiring.prober.sites[block.name].fn).__name__
    return ValueError(
        f"Site '{block.name}' ({kind}): its hyperparameters depend on latent "
        f"{listed(used)} in a way that is not conjugate. Accepted: {accepted}."
    )
