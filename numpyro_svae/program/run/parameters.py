# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Parameters that a fitted guide is given: all that it has, and no NaN.

A program runs with whatever parameters it is given, and begins the others anew: with
those of another guide, or without those of a network, it would say what was not learnt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.util import not_jax_tracer

from numpyro_svae.families import NaturalParameters

__all__ = ["check_parameters"]

_ACCEPTED = (
    "Accepted: all parameters in a dictionary by name, `params` of a result of SVI.run "
    "or svi.get_params(state)."
)


def check_parameters(
    params: Any, naturals: Collection[str], others: Collection[str] = ()
) -> None:
    """Look at parameters, as far as their values are known.

    :param params: a dictionary by name.
    :param naturals: the names of natural parameters that must be there.
    :param others: the names of other parameters that must be.
    :raises TypeError: if they are no dictionary, or naturals are no natural parameters.
    :raises ValueError: naming those that are missing, or are not fit to go on with.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"params: found {type(params).__name__}. {_ACCEPTED}")
    missing = sorted({*naturals, *others} - params.keys())
    if missing:
        raise ValueError(
            f"params: found {sorted(params)}, without {missing}, which the model, its "
            f"guide or its recognition function has. {_ACCEPTED}"
        )
    for name, value in params.items():
        if name in naturals and not isinstance(value, NaturalParameters):
            raise TypeError(
                f"params: '{name}' are natural parameters, found "
                f"{type(value).__name__}. {_ACCEPTED}"
            )
        leaves = jax.tree.leaves(value)
        if all(map(not_jax_tracer, leaves)) and not _is_fit(value, leaves):
            raise ValueError(
                f"params: '{name}' is NaN, or outside of the domain of its family: "
                "training has ended there. Accepted: parameters that are numbers, as "
                "svae_optimizer keeps them; with another optimiser, smaller steps."
            )


def _is_fit(value: Any, leaves: list[Any]) -> bool:
    if isinstance(value, NaturalParameters):
        return value.in_domain()
    numbers = (x for x in leaves if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    return not any(np.any(np.isnan(np.asarray(x))) for x in numbers)
