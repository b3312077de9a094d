# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors of local sites by the names that the program gave them."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.program.run.sites import Site
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.labels import label_of, whole_name

__all__ = ["shown_marginals"]


def shown_marginals(
    marginals: Mapping[str, dist.Distribution], sites: Mapping[str, Site]
) -> dict[str, dist.Distribution]:
    """Marginals by site, where what ``obs_mask`` leaves out is with what it does not.

    A label or vector that is known in part has the name of the program, and is certain
    where it is known. Paths stay as they are: they have ``_unobserved`` in their names.

    :param marginals: of the latent sites.
    :param sites: all sites.
    """
    found = {}
    for name, marginal in marginals.items():
        base, known = peel(marginal)[0], sites.get(str(label_of(name)))
        whole = whole_name(sites, name)
        if known is not None and isinstance(base, dist.MultivariateNormal):
            found[whole] = _certain(marginal, base, known)
        elif known is not None and isinstance(base, dist.CategoricalLogits):
            found[whole] = marginal
        else:
            found[name] = marginal
    return found


def _certain(
    marginal: dist.Distribution, base: dist.MultivariateNormal, known: Site
) -> dist.Distribution:
    """A Gaussian that is a point where its vector is known."""
    if known.mask is None:
        return marginal
    seen = jnp.broadcast_to(known.mask, known.positions)[..., None]
    loc = jnp.where(seen, known.value, base.loc)
    tril = jnp.where(seen[..., None], 0.0, base.scale_tril)
    fn = dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)
    return fn.to_event(marginal.event_dim - 1)
