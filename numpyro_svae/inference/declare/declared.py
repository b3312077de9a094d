# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The terms that a guide declares, and their sum in their place in an ELBO."""

from __future__ import annotations

from math import isclose
from numbers import Real
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

__all__ = ["Total", "check_declared", "sums_of_terms"]

Scale = Array | float


class Total(NamedTuple):
    """The sum of the terms of some sites.

    :param parts: what the sum is of, each part by a site that it has terms of.
    :param scales: the sites, with the scales that their terms have in it.
    """

    parts: dict[str, Array]
    scales: dict[str, Scale]


def check_declared(guide_sites: dict, model_sites: dict) -> None:
    """What a guide declares must be of the sites that the model has.

    :param guide_sites: the sample sites of a run of the guide.
    :param model_sites: those of the model.
    :raises ValueError: naming a site that one has observed and the other latent, or
        that the model has not.
    """
    expected: dict[str, str] = {}
    for name, site in guide_sites.items():
        infer = site["infer"]
        expected |= dict.fromkeys(infer.get("expected_log_prob", {}), "observed")
        if "kl" in infer and not infer.get("is_auxiliary", False):
            expected[name] = "latent"
    for name, kind in expected.items():
        site = model_sites.get(name)
        found = "not there" if site is None else _kind(site)
        if found != kind:
            raise ValueError(
                f"Site '{name}': {kind} in the guide, and {found} in the model that "
                "SVI was given. Accepted: one model for both, as AutoSVAE(model) and "
                "SVI(model, guide, ...), with the same numpyro.handlers around it."
            )


def _kind(site: dict) -> str:
    return "observed" if site["is_observed"] else "latent"


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
