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
from numpyro_svae.program.priors import DirichletPrior, Prior
from numpyro_svae.program.sites import Site
from numpyro_svae.program.sources import find_source, split
from numpyro_svae.program.tables import find_table, is_picked
from numpyro_svae.program.wiring import Wiring, not_conjugate

__all__ = ["read_discrete_chain", "read_rows", "read_table"]


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


def read_discrete_chain(wiring: Wiring, site: Site) -> list[Factor]:
    """The factors of a discrete chain: its first state, and its steps."""
    return [
        *read_rows(wiring, site, "initial", "initial_probs"),
        *read_rows(wiring, site, "transition", "transition_probs"),
    ]


def read_rows(wiring: Wiring, site: Site, role: str, parameter: str) -> list[Factor]:
    """The factor whose probabilities are a row of a Dirichlet block, or given."""
    used = wiring.needs[site.name][parameter]
    kind = StatisticsFactor if site.observed else DiscreteFactor
    if not used:
        return [kind(site.name, Source(), role)]
    accepted = (
        "the value of one Dirichlet site (a batch of it for the rows of a "
        "transition), a row that a discrete site picks (in plates of its own, for a "
        "latent site), or fixed probabilities"
    )
    options = split(wiring.prober, wiring.block_of, used)
    prior = options[0] if options else None
    picked = any(name in wiring.prober.locals for name in used)
    if role == "value" and not site.observed and picked:
        row = _latent_row(wiring, site, options, used)
        if row is not None:
            return [row]
    if (
        not isinstance(prior, DirichletPrior)
        or options is None
        or (picked and not site.observed)
    ):
        raise not_conjugate(site, parameter, used, accepted)
    if role == "transition":
        batch = prior.batch_shape == (prior.size,)
        holds = batch and wiring.prober.holds(
            lambda values, found: found.agrees(
                site.name, transition_probs=values[prior.name]
            )
        )
        source = Source(prior.name) if holds else None
    else:
        source = _row_source(wiring, site, role, parameter, options)
    if source is None or (source.gathered and not site.observed):
        raise not_conjugate(site, parameter, used, accepted)
    return [kind(site.name, source, role)]
