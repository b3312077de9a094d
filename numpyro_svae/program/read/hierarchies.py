# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognises priors of global blocks that depend on other global blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from numpyro_svae.program.bind.free_populations import FreePopulation
from numpyro_svae.program.bind.free_priors import FreePrior
from numpyro_svae.program.bind.populations import Population, bind_populations
from numpyro_svae.program.bind.rate_populations import RatePopulation, StickPopulation
from numpyro_svae.program.priors.gaussian_prior import GaussianPrior
from numpyro_svae.program.priors.rate_priors import BetaPrior
from numpyro_svae.program.read.wiring import Wiring, listed
from numpyro_svae.program.structure.probing import Prober

__all__ = ["AnyPopulation", "read_populations"]

AnyPopulation = Population | RatePopulation | FreePrior | FreePopulation


def read_populations(wiring: Wiring) -> dict[str, AnyPopulation]:
    """The priors of blocks that depend on other blocks, by block.

    :raises ValueError: naming the site, if such a prior is not conjugate.
    """
    prober, above = wiring.prober, dict[str, frozenset[str]]()
    alone = dict[str, AnyPopulation]()
    block: Any
    for name, block in prober.priors.items():
        used = frozenset().union(*map(wiring.used, block.sites)) - {*block.sites}
        above |= {name: used} if used else {}
        if block.is_free and not used:
            alone[name] = FreePrior(block)
    options = {n: list(_candidates(wiring, n, used)) for n, used in above.items()}
    found = dict[str, AnyPopulation]()
    while len(found) < len(options):
        rest = [name for name in options if name not in found]
        for name in rest:
            if not options[name]:
                raise _refused(wiring, name, above[name])
        tried = {name: options[name].pop(0) for name in rest}
        holding = _holding(prober, tried)
        found |= {name: tried[name] for name in holding}
    return alone | {name: found[name] for name in options}


def _holding(prober: Prober, populations: dict[str, AnyPopulation]) -> set[str]:
    """The blocks whose priors a program agrees with at random values of all sites.

    Members of which rows have one may be weights that are one or zero in this call, so
    that is tried for other arguments too.
    """
    probes = list(prober.probes())

    def read(own: Prober) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        @jax.jit
        def shown(values: dict[str, Any]) -> dict[str, Any]:
            sites = own.program.sites(values)
            return {name: p.shown(sites) for name, p in populations.items()}

        return bind_populations(populations, own), [shown(v) for v in probes]

    runs = [read(prober)]
    if any(p.picks for p in populations.values()):
        runs.append(prober.read_elsewhere(read))
    return {
        name
        for name, population in populations.items()
        if all(
            population.agrees(bound[name], values, run[name])
            for bound, shown in runs
            for values, run in zip(probes, shown)
        )
    }


def _candidates(
    wiring: Wiring, name: str, used: frozenset[str]
) -> Iterator[AnyPopulation]:
    """The priors that there may be, given the kinds of the sites."""
    block: Any = wiring.prober.priors[name]
    if not used <= {*wiring.block_of}:
        return
    names = {wiring.block_of[site].name for site in used}
    above: list[Any] = [p for n, p in wiring.prober.priors.items() if n in names]
    if block.part == "weight":
        parents = tuple(p for p in above if p.part == "weight")
        noises = tuple(p for p in above if p.part != "weight")
        alone = len(noises) <= 1
        if all(_fits(p, block) and (alone or p.by_entry) for p in noises):
            yield Population(block, parents, noises)
            if any(parent.components for parent in parents):
                yield Population(block, parents, noises, summed=True)
        return
    if [p.of_rates for p in (block, *above)] == [True, True]:
        yield RatePopulation(block, above[0])
    if isinstance(block, BetaPrior) and [p.of_rates for p in above] == [True]:
        yield StickPopulation(block, above[0])
        yield StickPopulation(block, above[0], first=True)
    if FreePopulation.fits(block, above):
        yield FreePopulation(block, tuple(above))


def _fits(noise: Any, block: GaussianPrior) -> bool:
    """Whether a block can hold the covariance of the rows of another."""
    size = (1, *block.event_shape)[-1]
    return noise.part in ("noise", "both") and (noise.by_entry or noise.covers(size))


def _refused(wiring: Wiring, name: str, used: frozenset[str]) -> ValueError:
    block = wiring.prober.priors[name]
    kind = type(wiring.prober.sites[block.name].fn).__name__
    return ValueError(
        f"Site '{block.name}' ({kind}): its hyperparameters depend on latent "
        f"{listed(used)} in a way that is not conjugate. Accepted: {block.accepted}."
    )
