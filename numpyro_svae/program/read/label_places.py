# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Checks that labels are seen at positions that they have."""

from __future__ import annotations

from numpyro_svae.program.read.wiring import Wiring
from numpyro_svae.program.run.positions import broadcasts_to
from numpyro_svae.program.run.sites import Site

__all__ = ["check_labels_at_places"]


def check_labels_at_places(wiring: Wiring, site: Site) -> None:
    """The plates of a label must be among those of the sites that depend on it.

    :raises ValueError: naming both, with what to write.
    """
    labels = wiring.ordered(wiring.used(site.name), True)
    for label in (wiring.prober.sites[name] for name in labels):
        if not broadcasts_to(label.batch_shape, site.batch_shape):
            raise ValueError(
                f"Site '{site.name}' ({type(site.fn).__name__}): found positions "
                f"{site.batch_shape}, at which it depends on the label '{label.name}' "
                f"of positions {label.batch_shape}. Accepted: a label outside of "
                "plates, or whose plates are among those of the site. Of several data "
                "for each label, as in z[item], write a plate of them inside of that "
                "of the label: with numpyro.plate('items', N, dim=-1): z = ..., and "
                "in it with numpyro.plate('members', M, dim=-2): data (M, N) that "
                "depend on z, with .mask(seen) where there are fewer than M. Of "
                "labels that are used together, as those that switch weights on in X "
                "@ (z * w), write sites without a plate, one by one."
            )
