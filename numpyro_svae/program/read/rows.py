# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads discrete sites and chains, and what discrete sites alone pick."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from numpyro_svae.program.bind.entries import Parameter
from numpyro_svae.program.bind.statistics import parameter_of
from numpyro_svae.program.bind.tables import find_density, find_table
from numpyro_svae.program.priors.observations import Observation
from numpyro_svae.program.priors.rate_priors import BetaPrior, GammaPrior
from numpyro_svae.program.priors.table_priors import DirichletPrior, TablePrior
from numpyro_svae.program.read.logits import read_logits
from numpyro_svae.program.read.placing import find_entries, moves
from numpyro_svae.program.read.row_products import find_products
from numpyro_svae.program.read.sums import of_steps
from numpyro_svae.program.read.wiring import Wiring, listed, not_conjugate
from numpyro_svae.program.run.positions import extent_of
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Factor, Source, TableFactor
from numpyro_svae.program.structure.probing import Found, Prober
from numpyro_svae.program.structure.sources import find_source

__all__ = ["read_discrete_chain", "read_latent_row", "read_statistics", "read_table"]


def read_table(
    wiring: Wiring, site: Site, parents: set[str], weights: tuple[str, ...] = ()
) -> Factor:
    """An observed site that depends on discrete sites, and perhaps on weights.

    :param parents: the discrete sites.
    :param weights: Gaussian blocks, if its density is any function of these.
    """
    selectors = wiring.ordered(parents, True)
    found = find_density(wiring.prober, site, selectors, weights)
    if found is None:
        accepted = (
            "a density that is a product over the positions of the discrete site, "
            "each in the state that the site has there"
        )
        used, advice = {*parents, *weights}, of_steps(wiring, site)
        raise not_conjugate(site, "its parameters", used, accepted, advice)
    return found


_ROWS = DirichletPrior | BetaPrior
_ACCEPTED = (
    "the value of one Dirichlet or Beta site, members of a batch of it that data or "
    "discrete sites pick, its entries in other places among known ones (as zeros), "
    "products of entries of one or several such sites, the same for all data, or fixed "
    "probabilities. Latent discrete sites may pick the rows of a latent "
    "Categorical (in plates of its own) or of an observed site, not of a latent chain"
)


def read_discrete_chain(wiring: Wiring, site: Site) -> list[Factor]:
    """The factors of a discrete chain: its first state, and its steps."""
    return [_chain_part(wiring, site, role) for role in ("initial", "transition")]


def _chain_part(wiring: Wiring, site: Site, role: str) -> Factor:
    form = "statistics" if site.observed else "rows"
    parameter = parameter_of(site, role)
    used = wiring.needs[site.name][parameter.name]
    if not used:
        return TableFactor(site.name, Source(), role, form)
    if not site.observed:
        logits = read_logits(wiring, site, role, parameter.name, used)
        if logits is not None:
            return logits
    found = _find(wiring, site, parameter, used, _ROWS)
    if found is None or (found.selectors and not site.observed):
        advice = _of_sticks(wiring, used)
        raise not_conjugate(site, parameter.name, used, _ACCEPTED, advice)
    if len(found.selectors) > 1:
        raise not_conjugate(site, parameter.name, used, "one of these sites alone")
    return TableFactor(site.name, found.source, role, form, (), found.selectors)


def read_latent_row(wiring: Wiring, site: Site) -> Factor:
    """The factor of a latent categorical site."""
    parameter = parameter_of(site)
    used = wiring.needs[site.name][parameter.name]
    if not used:
        return TableFactor(site.name)
    logits = read_logits(wiring, site, "value", parameter.name, used)
    if logits is not None:
        return logits
    if not any(name in wiring.block_of for name in used):
        selectors = wiring.ordered(used, True)
        whole = len(selectors) == len(used)
        table = find_table(wiring.prober, site, selectors) if whole else None
        if table is not None:
            return table
    found = _find(wiring, site, parameter, used, _ROWS)
    if found is None or found.source.offset:
        advice = _of_sticks(wiring, used)
        raise not_conjugate(site, parameter.name, used, _ACCEPTED, advice)
    coupled = bool(found.selectors)
    return TableFactor(
        site.name, found.source, selectors=found.selectors, coupled=coupled
    )


def read_statistics(wiring: Wiring, site: Site, kind: Observation) -> Factor:
    """The factor of an observation whose parameter a global block holds.

    :param kind: what kind of observation it is.
    """
    needs = wiring.needs[site.name]
    for name in kind.given:
        if needs[name]:
            raise not_conjugate(site, name, needs[name], f"a known {name}")
    used = needs[kind.parameter]
    for features in (True, False):
        found = None
        event_dim = _features(wiring, site, used) if features else 0
        parameter = parameter_of(site, "value", event_dim)
        if event_dim or not features:
            found = _find(wiring, site, parameter, used, kind.priors)
        if found is not None:
            break
    if found is None:
        accepted = (
            f"the value of one {kind.conjugate} site with the event shape of the "
            "parameter, or a member of a batch of it that discrete sites or data pick"
        )
        if kind.prior is GammaPrior:
            accepted += ", either of them times known positive numbers"
        advice = _of_sticks(wiring, used) if kind.rows else _of_several(wiring, used)
        advice = advice or of_steps(wiring, site)
        raise not_conjugate(site, kind.parameter, used, accepted, advice)
    return TableFactor(
        site.name,
        found.source,
        form="statistics",
        selectors=found.selectors,
        coupled=len(found.selectors) > 1,
        event_dim=event_dim,
    )


def _of_sticks(wiring: Wiring, used: Collection[str]) -> str:
    """What to write where sticks may be broken, for a message."""
    blocks = {n: wiring.block_of[n] for n in used if n in wiring.block_of}
    found = {n for n, block in blocks.items() if isinstance(block, BetaPrior)}
    if not found:
        return ""
    return (
        f" Of sticks {listed(found)} from Beta(1, alpha), v of the K - 1, the weights "
        "are jnp.append(v, 1.0) * jnp.append(1.0, jnp.cumprod(1 - v)), with nothing "
        "added to them; dist.transforms.StickBreakingTransform is none of v, but of "
        "real numbers, that it shifts."
    )


def _of_several(wiring: Wiring, used: Collection[str]) -> str:
    """What to write where parameters are those of several sites, for a message."""
    blocks = {name for name in used if name in wiring.block_of}
    if len(blocks) < 2:
        return ""
    return (
        f" Of {listed(blocks)}, of which each has some of the data, as in "
        "jnp.where(side == 0, a, b), write one site, whose priors may differ by "
        "member: rate = numpyro.sample('rate', dist.Gamma(jnp.array([1.0, 2.0]), 1.0)) "
        "in numpyro.plate('sides', 2), and rate[side], with whole numbers for sides."
    )


def _features(wiring: Wiring, site: Site, used: Collection[str]) -> int:
    """How many event dimensions of a site are features of the block it depends on."""
    priors = [wiring.block_of[name] for name in used if name in wiring.block_of]
    features = priors[0].features if priors else ()
    shape = site.outer.event_shape
    return len(features) if shape[len(shape) - len(features) :] == features else 0


class _FoundRows(NamedTuple):
    """Where a parameter comes from, and the discrete sites that pick it."""

    source: Source
    selectors: tuple[str, ...]


def _find(
    wiring: Wiring, site: Site, parameter: Parameter, used: Collection[str], kinds: Any
) -> _FoundRows | None:
    """Where a parameter comes from; None if not all of it is of one block or known.

    :param used: the latent sites that it depends on.
    :param kinds: the classes of blocks that may hold it.
    """
    prober, selectors = wiring.prober, wiring.ordered(used, True)
    blocks = {wiring.block_of[n].name for n in used if n in wiring.block_of}
    others = {n for n in used if n not in wiring.block_of} - {*selectors}
    priors: Any = tuple(p for n, p in prober.priors.items() if n in blocks)
    if others or not all(isinstance(prior, kinds) for prior in priors):
        return None
    if len(priors) > 1:
        return _products(prober, site, parameter, priors, selectors)
    prior = priors[0] if priors else None
    if prior is not None and len(selectors) < 2:
        source = _as_it_is(prober, site, parameter, prior, selectors)
        if source is not None:
            return _FoundRows(source, selectors)
    name = None if prior is None else prior.name
    selector = selectors[0] if len(selectors) == 1 else None
    how = find_entries(prober, site, parameter, prior, selectors)
    if how is None:
        return _products(prober, site, parameter, priors, selectors)
    return _FoundRows(Source(name, selector, 0, **{how: True}), selectors)


def _products(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    priors: tuple[TablePrior, ...],
    selectors: tuple[str, ...],
) -> _FoundRows | None:
    """The source of probabilities that are products of entries of blocks."""
    found = find_products(prober, site, parameter, priors, selectors)
    if found is None:
        return None
    prober.joins[found.name] = found
    selector = selectors[0] if len(selectors) == 1 else None
    return _FoundRows(Source(found.name, selector, placed=True), selectors)


def _as_it_is(
    prober: Prober,
    site: Site,
    parameter: Parameter,
    prior: TablePrior,
    selectors: tuple[str, ...],
) -> Source | None:
    """The source of a parameter that is that of a block, or of its members by state,
    whatever the arguments of the program are."""
    name, source = parameter.name, None
    if parameter.role == "transition":

        def holds(values: dict[str, Any], found: Found) -> bool:
            return found.agrees(site.name, **{name: values[prior.name]})

        square = prior.batch_shape == (prior.size,) and not selectors
        if square and prober.holds(holds):
            source = Source(prior.name)
    elif bool(selectors) == bool(prior.batch_shape):
        extent = extent_of(site, parameter.role, len(prior.features))
        options = prior, selectors[0] if selectors else None
        source = find_source(prober, site, name, extent, options)
    if source is None or moves(prober, site, parameter):
        return None
    return source
