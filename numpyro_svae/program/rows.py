# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads discrete sites and chains, and what discrete sites alone pick."""

from __future__ import annotations

from typing import Any

from numpyro_svae.program.factors import (
    DiscreteFactor,
    Factor,
    Source,
    StatisticsFactor,
    TableConditional,
    TableFactor,
)
from numpyro_svae.program.observations import Observation
from numpyro_svae.program.priors import DirichletPrior, Prior
from numpyro_svae.program.probing import Found
from numpyro_svae.program.sites import Site
from numpyro_svae.program.sources import find_source, split
from numpyro_svae.program.tables import find_table, is_picked
from numpyro_svae.program.wiring import Wiring, not_conjugate

__all__ = ["read_discrete_chain", "read_latent_row", "read_statistics", "read_table"]


def read_table(wiring: Wiring, site: Site, parents: set[str]) -> Factor:
    """An observed site that depends on nothing latent but discrete sites."""
    selectors = wiring.ordered(parents, True)
    if not is_picked(wiring.prober, site, selectors):
        accepted = (
            "a density that is a product over the positions of the discrete site, "
            "each in the state that the site has there"
        )
        raise not_conjugate(site, "its parameters", parents, accepted)
    if len(selectors) > 1:
        return TableConditional(site.name, selectors=selectors)
    return TableFactor(site.name, Source(selector=selectors[0]))


def _latent_row(
    wiring: Wiring,
    site: Site,
    options: tuple[Prior | None, str | None] | None,
    used: Any,
) -> Factor | None:
    """A latent categorical site whose probabilities discrete sites pick."""
    if options is not None and isinstance(options[0], DirichletPrior):
        source = _row_source(wiring, site, "value", "probs", options)
        if source is None or source.offset:
            return None
        picked = (str(source.selector),)
        return TableConditional(site.name, source, selectors=picked)
    selectors = wiring.ordered(used, True)
    if len(selectors) < len(used):
        return None
    return find_table(wiring.prober, site, selectors)


def _row_source(
    wiring: Wiring, site: Site, role: str, parameter: str, options: Any
) -> Source | None:
    prior: Any = options[0]
    return find_source(
        wiring.prober,
        site,
        role,
        (parameter,),
        options,
        lambda values: (values[prior.name],),
        lambda plain: prior.members(plain[parameter]),
    )


_ACCEPTED = (
    "the value of one Dirichlet site (a batch of it for the rows of a transition), a "
    "row that a discrete site picks (in plates of its own, for a latent site), or "
    "fixed probabilities"
)


def read_discrete_chain(wiring: Wiring, site: Site) -> list[Factor]:
    """The factors of a discrete chain: its first state, and its steps."""
    return [_first_state(wiring, site), _steps(wiring, site)]


def _first_state(wiring: Wiring, site: Site) -> Factor:
    used = wiring.needs[site.name]["initial_probs"]
    if not used:
        return _kind(site)(site.name, Source(), "initial")
    options = split(wiring.prober, wiring.block_of, used)
    source = None
    if options and isinstance(options[0], DirichletPrior) and options[1] is None:
        source = _row_source(wiring, site, "initial", "initial_probs", options)
    if source is None or (source.gathered and not site.observed):
        raise not_conjugate(site, "initial_probs", used, _ACCEPTED)
    return _kind(site)(site.name, source, "initial")


def _steps(wiring: Wiring, site: Site) -> Factor:
    used = wiring.needs[site.name]["transition_probs"]
    if not used:
        return _kind(site)(site.name, Source(), "transition")
    options = split(wiring.prober, wiring.block_of, used)
    prior = options[0] if options else None
    if isinstance(prior, DirichletPrior) and prior.batch_shape == (prior.size,):
        name = prior.name

        def holds(values: dict[str, Any], found: Found) -> bool:
            return found.agrees(site.name, transition_probs=values[name])

        if wiring.prober.holds(holds):
            return _kind(site)(site.name, Source(name), "transition")
    raise not_conjugate(site, "transition_probs", used, _ACCEPTED)


def _kind(site: Site) -> type[StatisticsFactor | DiscreteFactor]:
    return StatisticsFactor if site.observed else DiscreteFactor


def read_latent_row(wiring: Wiring, site: Site) -> Factor:
    """The factor of a latent categorical site."""
    used = wiring.needs[site.name]["probs"]
    if not used:
        return DiscreteFactor(site.name)
    options = split(wiring.prober, wiring.block_of, used)
    factor: Factor | None = None
    if any(name in wiring.prober.locals for name in used):
        factor = _latent_row(wiring, site, options, used)
    elif options and isinstance(options[0], DirichletPrior):
        source = _row_source(wiring, site, "value", "probs", options)
        if source is not None and not source.gathered:
            factor = DiscreteFactor(site.name, source)
    if factor is None:
        raise not_conjugate(site, "probs", used, _ACCEPTED)
    return factor


def read_statistics(wiring: Wiring, site: Site, kind: Observation) -> StatisticsFactor:
    """The factor of an observation whose parameter a global block holds.

    :param kind: what kind of observation it is.
    """
    parameter, used = kind.parameter, wiring.needs[site.name][kind.parameter]
    options = split(wiring.prober, wiring.block_of, used)
    prior = options[0] if options else None
    source = None
    if options and isinstance(prior, kind.prior):
        source = _row_source(wiring, site, "value", parameter, options)
    if prior is None or source is None:
        accepted = (
            f"the value of one {kind.conjugate} site with the event shape of the "
            "parameter, or the member of a batch of it that one discrete site picks"
        )
        raise not_conjugate(site, parameter, used, accepted)
    return StatisticsFactor(site.name, source, "value", len(prior.features))
