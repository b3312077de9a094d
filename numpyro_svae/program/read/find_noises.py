# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Finds which entries of a Gaussian factor each of several noises has."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_svae.program.bind.affine import PARAMETERS, View
from numpyro_svae.program.priors.joined_noises import JoinedNoises

__all__ = ["find_noises"]


def find_noises(view: View, blocks: list[Any], dim: int) -> JoinedNoises | None:
    """The noises of a Gaussian factor whose entries have precisions of several blocks.

    The variances of one block at a time are multiplied by two, three and so on.

    :param view: the site.
    :param blocks: what holds the noises, in program order.
    :param dim: D, the dimension of the response.
    :return: None if an entry has no noise of one of them alone, or a member has none.
    """
    if not all(block.by_entry for block in blocks):
        return None
    units = {n: v for block in blocks for n, v in block.unit_noise().items()}
    origin, entries = _variances(view, units), []
    if not np.all(origin > 0):
        return None
    for block in blocks:
        unit, size = units[block.name], int(np.prod(block.features))
        marks = 2.0 + np.arange(size).reshape(block.features)
        marked = block.of_precisions(1 / np.broadcast_to(marks, np.shape(unit)))
        ratio = _variances(view, {**units, block.name: marked}) / origin
        found = np.round(ratio).astype(int) - 2
        own = np.flatnonzero(found >= 0)
        if block.features:
            own = own[np.argsort(found[own], kind="stable")]
            if not (np.array_equal(found[own], np.arange(size)) and block.covers(size)):
                return None
        entries.append(tuple(int(entry) for entry in own))
    if sorted(sum(entries, ())) != list(range(dim)) or not all(entries):
        return None
    return JoinedNoises(dim, tuple(blocks), tuple(entries))


def _variances(view: View, values: dict[str, Any]) -> np.ndarray:
    """The variances of the first position, at values of the noises."""
    found = view.prober.read({**view.prober.plain_values(), **values})
    covariance = view.seen_covariance(found[view.site.name][PARAMETERS[view.role][1]])
    return np.asarray(covariance[(0,) * (covariance.ndim - 2)]).diagonal()
