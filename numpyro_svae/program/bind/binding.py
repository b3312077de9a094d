# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What the factors of a program need of its data, read by running it once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.distributions import LinearGaussianChain
from numpyro_svae.families import NaturalParameters
from numpyro_svae.program.bind.affine import View
from numpyro_svae.program.bind.bilinear import BoundBilinear, bind_bilinear
from numpyro_svae.program.bind.bound_regressions import BoundRegression, bind_regression
from numpyro_svae.program.bind.entries import Picked
from numpyro_svae.program.bind.gathered import scanned_inputs
from numpyro_svae.program.bind.latent_weights import (
    BoundDensities,
    BoundWeights,
    bind_weights,
)
from numpyro_svae.program.bind.populations import bind_populations
from numpyro_svae.program.bind.predictors import (
    Average,
    BoundPredictors,
    bind_predictors,
)
from numpyro_svae.program.bind.row_products import BoundProducts
from numpyro_svae.program.bind.statistics import (
    BoundStatistics,
    bind_rows,
    bind_statistics,
)
from numpyro_svae.program.bind.tables import bind_table
from numpyro_svae.program.priors.observations import observation_of
from numpyro_svae.program.run.positions import Extent
from numpyro_svae.program.run.sites import Program, Site
from numpyro_svae.program.run.wrappers import shape_of
from numpyro_svae.program.structure.factors import Structure, TableFactor
from numpyro_svae.program.structure.labels import seen_labels
from numpyro_svae.program.structure.latent_logits import LatentLogits
from numpyro_svae.program.structure.masks import check_counted
from numpyro_svae.program.structure.probing import Prober
from numpyro_svae.program.structure.same_classes import check_classes

__all__ = ["Bound", "BoundTable", "bind"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_probs", "scale"],
    meta_fields=["batch_shape", "extra"],
)
@dataclass(frozen=True)
class BoundTable:
    """Log probabilities of a site by state of its selectors.

    :param log_probs: ``(*batch, *extra, *states)`` where the selectors have ``extra``
        position dimensions of their own; masked already.
    :param scale: that of the site.
    :param batch_shape: that of the site.
    :param extra: how many event dimensions are positions.
    """

    log_probs: Array
    scale: Array | float
    batch_shape: tuple[int, ...]
    extra: int

    @property
    def extent(self) -> Extent:
        """Where the table's entries are."""
        positions = self.log_probs.shape[: len(self.batch_shape) + self.extra]
        return Extent(self.batch_shape, positions, None, self.scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bound:
    """A program with its data.

    :param sites: the sites of one run.
    :param priors: natural parameters of the priors, by block.
    :param regressions: data of the Gaussian factors, by site and role.
    :param statistics: data of the statistics factors, by site and role.
    :param tables: of the table factors, by site.
    :param picked: where rows of latent sites are in their blocks, by site and role, if
        they are not their members.
    :param populations: what the program gives of priors that depend on other blocks, by
        block.
    :param bilinear: data of the factors that are linear in each block, by site.
    :param logits: what the program says of discrete sites given a latent vector, by
        site.
    :param seen: which positions of labels that are known in part are known, by the
        latent site; None for all.
    :param predictors: the likelihoods of regressions that are not conjugate, by site.
    :param weights: the logits of latent discrete sites, and densities of data given
        these, with latent weights, by site and role.
    """

    sites: dict[str, Site]
    priors: dict[str, NaturalParameters]
    regressions: dict[tuple[str, str], BoundRegression]
    statistics: dict[tuple[str, str], BoundStatistics]
    tables: dict[str, BoundTable]
    picked: dict[tuple[str, str], Picked | BoundProducts]
    populations: dict[str, Any]
    seen: dict[str, Array | None]
    predictors: dict[str, BoundPredictors]
    bilinear: dict[str, BoundBilinear] = field(default_factory=dict)
    logits: dict[str, LatentLogits] = field(default_factory=dict)
    weights: dict[tuple[str, str], BoundWeights | BoundDensities] = field(
        default_factory=dict
    )

    def active(self, name: str, structure: Structure) -> bool:
        """Whether a factor's site counts: it is latent, or it has data."""
        return name in structure.locals or self.sites[name].observed


def bind(
    program: Program,
    structure: Structure,
    sites: dict[str, Site],
    rule: Average | None = None,
) -> Bound:
    """Read what the factors need of the data.

    :param program: the program, with its parameters and plates fixed.
    :param structure: its wiring.
    :param sites: the sites of a run at the plain values (see :func:`plain_values`).
    :param rule: how likelihoods are averaged over predictors, and logits over vectors;
        None if there are none of these.
    :return: the program with its data.
    :raises ValueError: if this run has a mask on a global site, or other distributions.
    """
    check_classes(structure, sites)
    check_counted(structure, sites)
    known = structure.priors, structure.locals, structure.joins
    prober = Prober(program, sites, *known, at_plain=True)
    sites = {n: _with_inputs(prober, s, structure) for n, s in sites.items()}
    latent = {n: site for n, site in sites.items() if not site.observed}
    kept = {n: _as_data(site, structure) for n, site in sites.items()}
    above = bind_populations(structure.populations, prober)
    seen = {name: seen_labels(program, sites, name) for name in structure.labels}
    predictors = bind_predictors(program, structure, sites, rule)
    own = _priors(structure, latent)
    weights = bind_weights(program, structure, rule)
    bound = Bound(kept, own, {}, {}, {}, {}, above, seen, predictors, weights=weights)
    for factor in structure.factors:
        if not bound.active(factor.site, structure):
            continue
        site, key = sites[factor.site], (factor.site, factor.role)
        if factor.form == "density":
            bound.tables[factor.site] = _table(prober, site, factor)
        elif factor.form == "statistics":
            bound.statistics[key] = bind_statistics(prober, site, factor)
        elif factor.form == "bilinear":
            kind: Any = structure.holder(factor)
            bound.bilinear[factor.site] = bind_bilinear(prober, site, kind)
        elif factor.form == "logits":
            average: Any = rule
            own = average.points(structure.locals[factor.parent].size)
            logits = LatentLogits.of(program, structure, factor, own)
            bound.logits[factor.site] = logits
        elif factor.form == "regression":
            bound.regressions[key] = bind_regression(prober, site, factor)
        elif not (factor.source.plain or factor.form == "weights"):
            bound.picked[key] = bind_rows(prober, site, factor)
    return bound


def _as_data(site: Site, structure: Structure) -> Site:
    """A site without the parameters of an observation, where no factor asks for them.

    Those of some distributions may not enter compiled functions.
    """
    sampled = site.name in {*structure.likelihoods, *structure.predicted}
    if sampled or (site.observed and observation_of(site.fn) is not None):
        return replace(site, outer=shape_of(site.outer))
    return site


@partial(jax.jit, static_argnums=0)
def _priors(
    structure: Structure, sites: dict[str, Site]
) -> dict[str, NaturalParameters]:
    blocks = structure.priors.items()
    return {name: prior.natural(sites).widened() for name, prior in blocks}


def _with_inputs(prober: Prober, site: Site, structure: Structure) -> Site:
    """A chain that a scan spells, with its inputs."""
    for factor in structure.factors:
        if factor.site != site.name or factor.form != "regression":
            continue
        inputs = scanned_inputs(View.of(prober, site, factor))
        if inputs is None or factor.beside.location:
            continue
        fn: Any = site.fn
        dim, width = fn.event_shape[-1], fn.event_shape[-1] + inputs.shape[-1]
        chain = LinearGaussianChain(
            fn.initial_loc,
            fn.initial_cov,
            jnp.zeros((dim, width), inputs.dtype),  # those of the block stand in
            fn.transition_cov,
            inputs=inputs,
            num_steps=fn.num_steps,
            validate_args=False,
        )
        return replace(site, outer=chain)
    return site


def _table(prober: Prober, site: Site, factor: TableFactor) -> BoundTable:
    table = bind_table(prober, site, factor)
    extra = table.ndim - len(factor.selectors) - len(site.batch_shape)
    if not site.observed:
        extra -= 1  # the states of the site itself
    return BoundTable(table, site.scale, site.batch_shape, extra)
