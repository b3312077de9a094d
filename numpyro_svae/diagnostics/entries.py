# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Data, predictions and likelihoods entry by entry, whole data left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_svae.diagnostics.dims import Dims

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["by_entry"]

_DATUM = "likelihood of a datum"  # no site


def by_entry(
    dims: Dims,
    plates: Sequence[str],
    likelihood: Any,
    sites: Mapping[str, tuple[Any, Any]],
    counts: Mapping[str, np.ndarray | None],
) -> dict[str, xr.Dataset]:
    """The groups of leave-one-out probability integral transforms.

    :param dims: names of the dimensions of the sites.
    :param plates: those of the data, which all of the sites are in.
    :param likelihood: log likelihood of each datum, ``(draws, *plates)``.
    :param sites: value, and draws of it, which lead, by observed site.
    :param counts: which entries of a site count; None for all.
    :return: groups by name, in which each entry has the likelihood of its datum.
    """
    dims.name(_DATUM, plates)
    of_data = dims.dataset({_DATUM: likelihood}, True)[_DATUM]
    observed, predicted, likelihoods = {}, {}, {}
    for name, (value, draws) in sites.items():
        own = dims.dataset({name: value}, False)[name]
        spread = of_data.broadcast_like(own).transpose("chain", "draw", *own.dims)
        seen: Any = counts[name]
        if seen is None or seen.all():
            seen = ...
        else:
            dims.name(name, [f"{name}_entry"])
        observed[name] = np.asarray(value)[seen]
        predicted[name] = np.asarray(draws)[:, seen]
        likelihoods[name] = spread.values[0][:, seen]
    return {
        "posterior_predictive": dims.dataset(predicted, True),
        "observed_data": dims.dataset(observed, False),
        "log_likelihood": dims.dataset(likelihoods, True),
    }
