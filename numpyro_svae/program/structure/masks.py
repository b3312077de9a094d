# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Checks of the masks of latent sites."""

from __future__ import annotations

from collections.abc import Set
from functools import partial

from jax import Array
import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.program.run.kinds import kind_of
from numpyro_svae.program.run.origins import depends
from numpyro_svae.program.run.parts import REST, known_as_data, whole_name
from numpyro_svae.program.run.sites import Program, Site
from numpyro_svae.program.run.wrappers import Layer, peel
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.program.structure.probing import plain_run

__all__ = ["check_counted", "check_masks"]


def check_masks(program: Program, structure: Structure, sites: dict[str, Site]) -> None:
    """Masks of local sites must be those of whole vectors; global ones have none.

    A mask that is computed from arguments may be another one in a later call, where it
    may be traced, so it is refused whatever it is in this one.

    :param program: the program.
    :param structure: its wiring.
    :param sites: the sites of a run.
    :raises ValueError: naming the site.
    """

    def mask_of(name: str, program: Program) -> Array | None:
        return peel(plain_run(program, structure)[name]["fn"])[1]

    for scan in program.scans:
        _check_of_steps(scan.latent.intersection(_global_sites(structure)))
    check_counted(structure, sites)
    for name in _global_sites(structure):
        if peel(sites[name].outer)[1] is not None:
            if depends(program, partial(mask_of, name)):
                raise _has_mask(name, ", computed from arguments of the model")
    for name in structure.locals:
        _check_copies(sites, name)
        if sites[name].entries is not None:
            raise ValueError(
                f"Site '{name}': latent, and its mask leaves out some entries of a "
                "vector and not others. Accepted: a mask of whole vectors, on a latent "
                "site; of entries, on an observed Normal(...).to_event(1)."
            )


def _check_of_steps(names: Set[str]) -> None:
    """What is latent at each step of a scan is no parameter.

    :raises ValueError: naming the site.
    """
    for name in sorted(names):
        raise ValueError(
            f"Site '{name}': latent at each step of a scan, and read as a parameter, "
            "as it moves a state or what is not conjugate to it. Accepted: noise of "
            "the states in their own distribution, as Normal(a * x, s) in the place "
            "of Normal(a * x + e, r); what drives them as a part of the state, one "
            "path of [x; u]; or a site before the scan, in a plate, whose rows the "
            "body takes from xs."
        )


def _check_copies(sites: dict[str, Site], name: str) -> None:
    """A mask must not make a latent site one of several: NumPyro draws it so often.

    :raises ValueError: naming the site.
    """
    site, mask = sites[name], None
    plates = [frame.dim for frame in site.frames]
    inner, layer = site.outer, Layer.of(site.outer)
    while layer is not None:
        mask = layer.mask if layer.mask is not None else mask
        inner, layer = layer.inner, Layer.of(layer.inner)
    if mask is None:
        return
    shape, own = site.batch_shape, (1,) * len(site.batch_shape) + inner.batch_shape
    extra = [d for d in range(-len(shape), 0) if shape[d] != own[d] and d not in plates]
    if not extra:
        return
    whole, kind = whole_name(sites, name), kind_of(site.fn)
    instead = "a mask of the shape of the plates around it"
    if kind is not None and kind.chain:
        instead += "; for states of a path that are known in part, "
        instead += known_as_data(whole, kind.discrete)
    raise ValueError(
        f"Site '{whole}': found a mask, or an obs_mask, of shape {np.shape(mask)}, "
        f"with which NumPyro draws the site {shape[extra[0]]} times, in no plate. "
        f"Accepted: {instead}."
    )


def check_counted(structure: Structure, sites: dict[str, Site]) -> None:
    """The prior of a global site must count as a whole, as far as can be seen.

    :param structure: the wiring.
    :param sites: the sites of a run, of any call.
    :raises ValueError: naming the site.
    """
    for name in _global_sites(structure):
        mask = peel(sites[name].outer)[1]
        if mask is not None and not_jax_tracer(mask) and not np.all(mask):
            raise _has_mask(name)


def _global_sites(structure: Structure) -> list[str]:
    return [name for prior in structure.priors.values() for name in prior.sites]


def _has_mask(name: str, what: str = "") -> ValueError:
    if name.endswith(REST):
        return ValueError(
            f"Site '{name}': obs_mask makes a latent site of the numbers that are "
            "missing, beside those that are seen. Accepted: a mask in its place, as "
            "numpyro.sample(name, fn.mask(seen), obs=jnp.where(seen, y, 0.0)), with "
            "which ns.impute draws what is missing; or vectors, as fn.to_event(1)."
        )
    return ValueError(
        f"Site '{name}': found a mask on a global site{what}. Unless all of it "
        "is true, the prior is no density. Accepted: numpyro.handlers.mask around "
        "plates of data, and masks of likelihoods. A member that should not exist "
        "needs no mask: it keeps its prior where no data pick it. For a prior that "
        "says little, write a broad one."
    )
