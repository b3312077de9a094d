# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Whether natural parameters have digits left for the noise."""

from __future__ import annotations

import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.families import NaturalParameters, RegressionNatural
from numpyro_svae.families.matrices import has_cholesky

__all__ = ["check_digits"]


def check_digits(name: str, natural: NaturalParameters) -> None:
    """Second moments must have digits left for what is not explained, at a start.

    :param name: the block.
    :param natural: natural parameters; other families, and those that are not known
        yet, pass.
    :raises ValueError: naming the site and member, and whether all of its data are far
        from zero, or one datum from all others.
    """
    if not isinstance(natural, RegressionNatural):
        return
    leaves = natural.vv, natural.vu, natural.uu
    if not all(map(not_jax_tracer, leaves)):
        return
    vv, vu, uu = (np.asarray(x, np.float64) for x in leaves)
    if not all(np.all(np.isfinite(x)) for x in (vv, vu)) or not has_cholesky(uu):
        return
    loc = np.swapaxes(np.linalg.solve(uu, np.swapaxes(vu, -1, -2)), -1, -2)
    sizes = np.sqrt(np.diagonal(vv, axis1=-2, axis2=-1))
    rest = vv - loc @ np.swapaxes(vu, -1, -2)
    rest = rest / (sizes[..., :, None] * sizes[..., None, :])
    left, least = np.linalg.eigvalsh(rest)[..., 0], 4 * np.finfo(natural.vv.dtype).eps
    if np.all(left > least):
        return
    member = np.unravel_index(np.argmin(left), left.shape)
    size = 1 / np.sqrt(max(left[member], least))
    where = f"member {tuple(map(int, member))} has" if member else "it has"
    found = (
        f"Site '{name}': {where} data at least {size:.0e} times as large as their "
        f"spread about the fit in some direction, of which {natural.vv.dtype} leaves "
        "no digit. "
    )
    if uu.shape[-1] > 1:
        raise ValueError(
            f"{found}Accepted: data less an offset, or with a larger scale of the "
            "noise in the prior; or float64."
        )
    weights, at = uu[..., 0, 0], np.array2string(loc[member][:, 0], precision=4)
    weight = weights[member]
    if member and _is_apart(loc[..., 0], weights, member):
        raise ValueError(
            f"{found}They are {weight:.3g}, with the prior, near {at}, and far from "
            "those of other members: look for an outlier there. Accepted: data without "
            "it; or float64."
        )
    raise ValueError(
        f"{found}All {weight:.3g} of them are far from zero, about {at}. Accepted: "
        "data and prior locations less a point near there; or float64."
    )


def _is_apart(loc: np.ndarray, weights: np.ndarray, member: tuple) -> bool:
    """Whether a member is further from the others than they are from zero.

    :param loc: locations, ``(..., D)``.
    :param weights: how many data each has.
    """
    others = np.where(np.arange(weights.size) == member[0], 0.0, weights.ravel())
    if not others.any():
        return False
    rest = others @ loc.reshape(weights.size, -1) / others.sum()
    return bool(np.max(np.abs(loc[member] - rest)) > np.max(np.abs(rest)))
