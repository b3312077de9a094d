# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sites of which a part is known, by ``obs_mask``.

NumPyro makes two sites of such a label, or vector, whose masks are those of the known
and of the unknown part, and whatever masks are around both.
"""

from __future__ import annotations

from jax import Array
import jax.numpy as jnp

from numpyro_svae.program.run.parts import REST, label_of
from numpyro_svae.program.run.sites import Program, Site
from numpyro_svae.program.run.wrappers import Layer

__all__ = ["counted_labels", "seen_labels"]


def seen_labels(program: Program, sites: dict[str, Site], name: str) -> Array | None:
    """Which positions of a label the program sees, also where it does not count.

    Masks around both parts hide that from theirs, so the program is asked: where the
    label is known, it is the same whatever the rest is.

    :param program: the program.
    :param sites: the sites of one run.
    :param name: the latent part of the label.
    :return: None for all of them.
    """
    site = sites[str(label_of(name))]
    if not _masked_around(site):
        return site.mask
    latent = {n: s.value for n, s in sites.items() if not s.observed}

    def whole(state: int) -> Array:
        values = {**latent, name: jnp.full_like(sites[name].value, state)}
        return program.trace(values)[name.removesuffix(REST)]["value"]

    return whole(0) == whole(1)


def counted_labels(sites: dict[str, Site], name: str) -> Array | None:
    """Which positions of a label count, known or not; None for all of them."""
    known, rest = sites[str(label_of(name))], sites[name]
    if known.mask is None or rest.mask is None or not _masked_around(known):
        return None
    return known.mask | rest.mask


def _masked_around(site: Site) -> bool:
    """Whether a part of a label has more masks than that of ``obs_mask``."""
    layer, masks = Layer.of(site.outer), 0
    while layer is not None:
        masks += layer.mask is not None
        layer = Layer.of(layer.inner)
    return masks > 1
