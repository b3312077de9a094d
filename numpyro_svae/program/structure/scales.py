# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Checks of the scales that handlers give to sites."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from numpyro_svae.program.run.plates import Plates, own_scale
from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.structure.factors import Structure

__all__ = ["check_scales"]


def check_scales(
    structure: Structure, sites: dict[str, Site], messages: dict[str, dict]
) -> None:
    """Global sites must count once, local ones all alike.

    :param structure: the wiring.
    :param sites: the sites of a run.
    :param messages: the messages of the same run.
    :raises ValueError: naming the site.
    """
    plates = Plates(messages).messages
    for prior in structure.priors.values():
        for name in prior.sites:
            frames, _ = structure.shown.plates(sites[name])
            own = own_scale(sites[name].scale, frames, plates)
            if not np.allclose(own, 1.0):
                raise ValueError(
                    f"Site '{name}': found a scale of {_shown(own)} for a global site, "
                    "whose prior is then no density. Accepted: numpyro.handlers.scale "
                    "around plates of data with their latent sites, or around "
                    "likelihoods. To scale the whole loss, give AutoSVAE the model as "
                    "it is, and handlers.scale of the model and of the guide to SVI."
                )
    for name in structure.locals:
        if jnp.ndim(sites[name].scale):
            raise ValueError(
                f"Site '{name}': found {_shown(sites[name].scale)} for its scale. "
                "Accepted: numpyro.handlers.scale by one number around latent sites; "
                "by an array only around observed ones."
            )


def _shown(scale: Any) -> Any:
    return f"an array of shape {scale.shape}" if jnp.ndim(scale) else float(scale)
