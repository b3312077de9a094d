# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The sum of terms that a guide declares, in place of these terms in an ELBO."""

from __future__ import annotations

from math import isclose
from numbers import Real
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

__all__ = ["Total", "sums_of_terms"]

Scale = Array | float


class Total(NamedTuple):
    """The sum of the terms of some sites.

    :param parts: what the sum is of, each part by a site that it has terms of.
    :param scales: the sites, with the scales that their terms have in it.
    """

    parts: dict[str, Array]
    scales: dict[str, Scale]


def sums_of_terms(guide_sites: dict, model_sites: dict) -> dict[str, Array]:
    """The totals that a guide declares and that hold, each as the term of one site.

    A total does not hold if a handler around the guide or the model has changed a
    scale, as annealing does, or hides a site.

    :param guide_sites: the sample sites of a run of the guide.
    :param model_sites: those of the model.
    :return: terms of all sites that are in a total, zero but for those of its parts.
    """
    sites = {**model_sites, **guide_sites}
    terms: dict[str, Array] = {}
    for site in guide_sites.values():
        total = site["infer"].get("total")
        if total is not None and all(
            name in sites and _holds(sites[name], scale)
            for name, scale in total.scales.items()
        ):
            terms |= dict.fromkeys(total.scales, jnp.zeros(()))
            terms |= total.parts
    return terms


def _holds(site: dict, scale: Scale) -> bool:
    """Whether a site's term is declared, and known to have a scale before it is run."""
    declared = site["is_observed"] or "kl" in site["infer"]
    own = 1.0 if site["scale"] is None else site["scale"]
    known = isinstance(own, Real) and isinstance(scale, Real)
    return declared and (isclose(own, scale) if known else own is scale)
