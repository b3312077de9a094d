# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Eigenvalues of the dynamics of chains, under their posterior."""

from __future__ import annotations

from typing import Any

from jax import Array
import jax.numpy as jnp
import numpy as np

from numpyro_svae.guide import AutoSVAE
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.bind.bound_regressions import BoundRegression
from numpyro_svae.program.structure.factors import Factor
from numpyro_svae.program.structure.supports import Support

__all__ = ["eigenvalues"]


def eigenvalues(
    guide: AutoSVAE, params: dict[str, Any], bound: Bound, key: Array, num_samples: int
) -> dict[str, np.ndarray]:
    """Eigenvalues of draws of the dynamics, by chain.

    :param guide: a guide that has read its model.
    :param params: its parameters.
    :param bound: the model with its data.
    :param key: random key.
    :param num_samples: number S of draws.
    :return: complex arrays ``(S, D)``, or ``(S, K, D)`` where states or data pick one
        of K; S is one for known dynamics. Dynamics that several weights make up
        together are left out.
    """
    found = {}
    for factor in guide.structure.factors:
        if factor.form != "regression" or factor.role != "transition":
            continue
        if (factor.site, factor.role) not in bound.regressions:
            continue
        data = bound.regressions[factor.site, factor.role]
        weight = _draws(guide, params, factor, key, num_samples)
        if weight is None:
            weight = _known(data)
        elif data.known is not None:
            weight = _placed(data, weight)
        if weight is not None and factor.support is not None:
            weight = _in_all_rows(data, factor.support, weight)
        if weight is not None:
            square = weight[..., : weight.shape[-2]]
            found[factor.site] = np.linalg.eigvals(square)
    return found


def _draws(
    guide: AutoSVAE, params: dict[str, Any], factor: Factor, key: Array, count: int
) -> np.ndarray | None:
    """Draws of the weight that a block holds, ``(S, [K], D, M)``."""
    structure = guide.structure
    source = str(factor.source.prior)
    join: Any = structure.joins.get(source)
    prior: Any = structure.priors.get(source)
    if join is not None and len(join.weights) == 1:
        prior = join.weights[0]
    if prior is None or prior.part not in ("weight", "both"):
        return None
    values = guide.get_posterior(params)[prior.name].sample(key, (count,))
    if prior.part == "both":
        return np.asarray(values[..., : prior.columns])
    return np.asarray(prior.weight(values))


def _known(data: BoundRegression) -> np.ndarray | None:
    """The different known weights of a chain, as one draw."""
    if data.known is None or not data.all_known:
        return None
    found = _different(data.known)
    return found if len(found) == 1 else found[None]


def _placed(data: BoundRegression, weight: np.ndarray) -> np.ndarray | None:
    """``K + F S`` of draws of F, if K and S are the same at all steps and sequences."""
    known, placement = (_different(x) for x in (data.known, data.placement))
    if len(known) > 1 or len(placement) > 1:
        return None
    return known[0] + weight @ placement[0]


def _in_all_rows(
    data: BoundRegression, support: Support, weight: np.ndarray
) -> np.ndarray | None:
    """Draws with the rows that have no noise, if these are the same everywhere."""
    fixed = _different(data.fixed)
    if len(fixed) > 1:
        return None
    return np.asarray(support.shown(jnp.asarray(weight))) + fixed[0]


def _different(matrices: Any) -> np.ndarray:
    """The matrices that are different, on the first axis."""
    found = np.asarray(matrices)
    return np.unique(found.reshape(-1, *found.shape[-2:]), axis=0)
