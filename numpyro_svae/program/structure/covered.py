# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Whether what was read of one call of a program holds for another call of it.

It does where the sites of the other depend on each other in the same way, or on less:
what is known of a factor is read at each call, and may turn out to be zero there.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace
from typing import Any

from numpyro_svae.program.run.agreement import same
from numpyro_svae.program.structure.factors import (
    Beside,
    GaussianFactor,
    Structure,
    TableFactor,
)

__all__ = ["check_covered", "data_of"]

_LOCATIONS = "", "offset", "map"  # each has those before it as cases


def data_of(structure: Structure) -> frozenset[str]:
    """The sites that were observed when the program was read, and are not alone."""
    sites = {factor.site for factor in structure.factors}
    return frozenset(
        sites.union(structure.likelihoods, structure.predicted) - {*structure.locals}
    )


def check_covered(
    structure: Structure, found: Structure, drawn: Container[str] = ()
) -> None:
    """What a program depends on in another call must have been read of the first one.

    :param structure: the wiring, as it was read.
    :param found: that of the other call.
    :param drawn: the sites that have no data in that, and say nothing.
    :raises ValueError: naming a site that depends on other sites, or in another way.
    """
    for name in _more(structure, found):
        if name in drawn:
            continue
        now, then = _said(found, name), _said(structure, name)
        if now == then:
            now, then = f"{now}, in another way", f"{then}, in its own way"
        raise ValueError(
            f"Site '{name}': found arguments with which it is {now}; when the guide "
            f"was set up, it was {then}. AutoSVAE reads its model once. Accepted: "
            "arguments with which sites depend on each other as they did then, or on "
            "less. Give what asks for most in the first call, as to SVI.init; write a "
            "number that changes as an array, jnp.asarray(number); and give a program "
            "that a flag makes another one a guide of its own."
        )


def _said(structure: Structure, name: str) -> str:
    """What the wiring shows of a site."""
    rows = (line.partition("  ") for line in str(structure).splitlines())
    label, said = f"'{name}'", list[str]()
    for row, _, text in rows:
        if row.split(",")[0].strip() == label:
            part = row.strip().removeprefix(label).lstrip(", ")
            said.append(f"{part} {text.strip()}".strip())
    own = [f for f in structure.factors if f.site == name]
    located = [f for f in own if isinstance(f, GaussianFactor)]
    if any(f.beside.location for f in located):
        said.append("with something known beside it")
    if any(f.beside.scaled for f in located):
        said.append("with a known factor of its variance")
    if name in structure.leaves:
        said.append("on which nothing depends")
    return "; ".join(said) or "of no latent site"


def _more(structure: Structure, found: Structure) -> Iterator[str]:
    """The sites of which more was found, or something else."""
    for name, prior in found.priors.items():
        own = structure.priors.get(name)
        if own is None or type(own) is not type(prior) or own.sites != prior.sites:
            yield prior.sites[0]
    for name, population in found.populations.items():
        above = _names(structure.populations.get(name), name)
        if above is None or not {*(_names(population, name) or ())} <= {*above}:
            yield name
    for name in structure.locals.keys() ^ found.locals.keys():
        yield name
    for name, local in found.locals.items():
        own_local = structure.locals[name]
        if (own_local.kind, own_local.size) != (local.kind, local.size):
            yield name
    yield from dict(structure.labels.items() ^ found.labels.items())
    yield from structure.leaves - found.leaves
    yield from _respelled(structure, found)
    known = {(factor.site, factor.role): factor for factor in structure.factors}
    for factor in found.factors:
        own_factor = known.get((factor.site, factor.role))
        if own_factor is None:
            if not _sampled(structure, found, factor):
                yield factor.site
        elif not _covers(structure, own_factor, found, factor):
            yield factor.site
    for name, parents in found.likelihoods.items():
        if not parents <= structure.likelihoods.get(name, frozenset()):
            tables = (f for f in structure.factors if f.form == "density")
            if not any(f.site == name and parents <= {*f.selectors} for f in tables):
                yield name
    for name, blocks in found.predicted.items():
        if not {*blocks} <= {*structure.predicted.get(name, ())}:
            yield name
    for name, entries in found.products.items():
        if entries != structure.products.get(name):
            yield name


def _respelled(structure: Structure, found: Structure) -> Iterator[str]:
    """The sites of scans, and those shown in another shape, that are not as they were.

    The means of a chain may have been moved by what is zero now, and its sequences may
    have had ends.
    """
    chains, others = (
        {name: chain for scan in own.scans for name, chain in scan.chains.items()}
        for own in (structure, found)
    )
    for name, chain in others.items():
        own = chains.get(name)
        if own is not None:  # as it would be with more
            more = chain.moved or own.moved, chain.masked or own.masked
            chain = replace(chain, moved=more[0], masked=more[1])
        if own != chain:
            yield name
    yield from structure.shown.numbers ^ found.shown.numbers
    yield from structure.shown.time_plates.keys() ^ found.shown.time_plates.keys()
    yield from structure.shown.grids.keys() ^ found.shown.grids.keys()
    yield from dict(structure.shown.together.items() ^ found.shown.together.items())


def _names(population: Any, name: str) -> tuple[str, ...] | None:
    if population is None:
        return None
    return tuple(block.name for block in population.above)


def _sampled(structure: Structure, found: Structure, factor: Any) -> bool:
    """Whether a site that is conjugate now was sampled with all that it depends on."""
    parents = structure.likelihoods.get(factor.site, frozenset())
    needed = {*factor.parents, *factor.selectors}
    blocks = structure.predicted.get(factor.site, ())
    return needed <= parents and {*found.blocks_of(factor)} <= {*blocks}


def _covers(structure: Structure, own: Any, found: Structure, other: Any) -> bool:
    """Whether a factor is another one, or has it as the case where something is zero.

    :param structure: that of the factor.
    :param own: the factor.
    :param found: that of the other.
    :param other: the other factor.
    """
    parts = (
        (other.parents, own.parents),
        (other.selectors, own.selectors),
        (found.blocks_of(other), structure.blocks_of(own)),
    )
    if not all({*less} <= {*more} for less, more in parts):
        return False
    if own.form == "density":
        return True
    if own.form != other.form or own.event_dim != other.event_dim:
        return False
    if other.coupled and not own.coupled:
        return False
    if other.source.selector and not _picks(own, other):
        return False
    if other.source.gathered > own.source.gathered:
        return False
    if other.source.placed > own.source.placed:
        return False
    if isinstance(own, GaussianFactor):
        return _covers_known(own.beside, other.beside) and _same_maps(own, other)
    if isinstance(own, TableFactor):
        return own.order == other.order and own.alike <= other.alike
    return own == other


def _picks(own: Any, other: Any) -> bool:
    """Whether the state that picks the member of another factor does so here; it is
    read at each call where all may differ between the states."""
    if own.source.selector is None and isinstance(own, GaussianFactor):
        return own.beside.all_by_state
    picked = other.source.selector, other.source.offset
    return (own.source.selector, own.source.offset) == picked


def _covers_known(own: Beside, other: Beside) -> bool:
    most, location = map(_LOCATIONS.index, (own.location, other.location))
    return (
        location <= most
        and other.by_state <= own.by_state
        and other.noise_by_state <= own.noise_by_state
        and own.shared <= other.shared
        and other.scaled <= own.scaled
        and other.all_by_state <= own.all_by_state
    )


def _same_maps(own: GaussianFactor, other: GaussianFactor) -> bool:
    """Whether what is not read again is the same."""
    placed = own.parent_map, other.parent_map
    if placed[0] is not None and (placed[1] is None or not _alike(*placed)):
        return False
    supports = [None if f.support is None else f.support.basis for f in (own, other)]
    if supports[0] is None or supports[1] is None:
        return supports[0] is supports[1]
    return _alike(*supports)


def _alike(own: Any, other: Any) -> bool:
    return own.shape == other.shape and same(own, other)
