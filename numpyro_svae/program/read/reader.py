# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads how a program is wired: priors, local sites, conjugate factors, likelihoods."""

from __future__ import annotations

from collections.abc import Collection

from numpyro_svae.program.priors.observations import observation_of
from numpyro_svae.program.read.gaussians import read_known_regression
from numpyro_svae.program.read.gradient_sites import read_positions, senders_of
from numpyro_svae.program.read.hierarchies import read_populations
from numpyro_svae.program.read.label_places import check_labels_at_places
from numpyro_svae.program.read.latents import read_locals, read_priors
from numpyro_svae.program.read.predicted import (
    check_predictors,
    is_regression,
    of_likelihood,
    predicting,
    weights_alone,
    with_orders,
)
from numpyro_svae.program.read.rows import read_statistics, read_table
from numpyro_svae.program.read.sums import of_weights_beside
from numpyro_svae.program.read.wiring import Wiring, not_conjugate
from numpyro_svae.program.run.axes import axes_of
from numpyro_svae.program.run.kinds import kind_of
from numpyro_svae.program.run.parts import label_of
from numpyro_svae.program.run.sites import Program, Site
from numpyro_svae.program.structure.factors import Factor, Local, Structure
from numpyro_svae.program.structure.graphs import check_graphs
from numpyro_svae.program.structure.groups import parents_of, with_mixtures
from numpyro_svae.program.structure.probing import Prober
from numpyro_svae.program.structure.same_classes import classes_of

__all__ = ["read_structure"]


def read_structure(
    program: Program,
    sites: dict[str, Site],
    recognised: Collection[str],
    refined: bool = False,
) -> Structure:
    """Read the wiring of a program.

    :param program: the program, with concrete arguments.
    :param sites: the sites of one run.
    :param recognised: names of the sites that the recognition function speaks to.
    :param refined: whether what it says of vectors is refined.
    :return: its wiring.
    :raises ValueError: naming the site, if a latent site or a dependence on one is
        neither conjugate nor covered by a potential or by messages.
    """
    priors = read_priors(program, sites)
    locals = read_locals(program, sites, priors)
    prober = Prober(program, sites, priors, locals)
    block_of = {name: prior for prior in priors.values() for name in prior.sites}
    needs = prober.dependencies([*block_of, *locals])
    wiring = Wiring(prober, block_of, needs)
    populations = read_populations(wiring)
    observed = {name: label_of(name) for name in locals if locals[name].discrete}
    labels = {name: label for name, label in observed.items() if label in sites}
    factors: list[Factor] = []
    likelihoods: dict[str, frozenset[str]] = {}
    predicted: dict[str, tuple[str, ...]] = {}
    for name, site in sites.items():
        if name not in block_of and name not in labels.values():
            blocks = predicting(wiring, site)
            if blocks:
                predicted[name] = blocks
                continue
            found = _factors(wiring, site, frozenset(recognised))
            factors.extend(found)
            if not found and wiring.used(name):
                likelihoods[name] = wiring.used(name)
    leaves = _leaves(
        locals, factors, {*labels, *recognised}.union(*likelihoods.values())
    )
    names = [*locals, *(factor.site for factor in factors)]
    axes = {name: axes_of(sites[name]).plates for name in names}
    refines = {n for n in locals if refined and not locals[n].discrete}
    structure = Structure(
        priors,
        locals,
        tuple(factors),
        likelihoods,
        labels,
        leaves,
        axes,
        program.scans,
        prober.joins,
        populations,
        program.shown,
        senders_of(likelihoods, locals, {*recognised} - refines),
        predicted,
        classes=classes_of(sites),
    )
    structure = with_mixtures(structure)
    check_graphs(structure, sites)
    structure = read_positions(program, structure, sites)
    structure = with_orders(program, structure, sites)
    check_predictors(program, structure, sites)
    return structure


def _leaves(
    locals: dict[str, Local], factors: list[Factor], needed: Collection[str]
) -> frozenset[str]:
    """The local sites on which nothing depends but sites of the same kind.

    :param needed: sites on which something else depends.
    """
    leaves = {name for name in locals if not locals[name].chain} - {*needed}
    while True:
        used = {n for f in factors if f.site not in leaves for n in parents_of(f)}
        if not used & leaves:
            return frozenset(leaves)
        leaves -= used


def _factors(wiring: Wiring, site: Site, recognised: frozenset[str]) -> list[Factor]:
    """The factors of a site; none for a likelihood that has to be sampled."""
    check_labels_at_places(wiring, site)
    used, kind = wiring.used(site.name), kind_of(site.fn)
    locals, block_of = wiring.prober.locals, wiring.block_of
    blocks = {block_of[n].name for n in used if n in block_of}
    parents = {n for n in used if n in locals}
    if site.name in locals:
        return locals[site.name].kind.read(wiring, site)
    seen = observation_of(site.fn)
    discrete = bool(parents) and all(locals[n].discrete for n in parents)
    if discrete and is_regression(wiring, site):
        weights = weights_alone(wiring, site, blocks)
        if weights or not blocks:
            return [read_table(wiring, site, parents, weights)]
    none, beside = "no latent global site", of_weights_beside(wiring, site)
    if beside:
        raise not_conjugate(site, "its parameters", blocks, none, beside)
    if seen is not None and blocks:
        return [read_statistics(wiring, site, seen)]
    if kind is not None and kind.size(site) is not None:
        found = kind.read_observed(wiring, site, blocks)
        if found:
            return found
    if blocks:
        raise not_conjugate(site, "its parameters", blocks, none, of_likelihood(site))
    if discrete:
        return [read_table(wiring, site, parents)]
    if any(not locals[n].discrete for n in parents - recognised):
        known = read_known_regression(wiring, site)
        return [] if known is None else [known]
    return []
