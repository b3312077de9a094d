# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Which priors dominate: pseudo-counts of priors beside counts of data."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from numpyro_svae.families import DirichletNatural, GammaNatural, GaussianNatural
from numpyro_svae.families.regression import RegressionNatural

__all__ = ["PriorShare", "prior_shares"]


class PriorShare(NamedTuple):
    """What a posterior owes to its prior.

    :param share: part of the posterior that is the prior's, between 0 (the data have
        decided) and 1 (they have no influence), for each member of the batch.
    :param prior: pseudo-counts of the prior; None where information is no count.
    :param data: counts of the data, in the same units; None likewise.
    """

    share: np.ndarray
    prior: np.ndarray | None = None
    data: np.ndarray | None = None


def prior_shares(posterior: Any, prior: Any) -> dict[str, PriorShare]:
    """The shares of a prior in a posterior of its family, by part.

    :param posterior: natural parameters of the posterior.
    :param prior: those of the prior.
    """
    return _parts(posterior, prior)


@singledispatch
def _parts(posterior: Any, prior: Any) -> dict[str, PriorShare]:
    return {}  # a family that somebody has added


@_parts.register
def _(posterior: DirichletNatural, prior: DirichletNatural) -> dict[str, PriorShare]:
    total = (jnp.sum(natural.concentration, -1) for natural in (posterior, prior))
    return {"": _of_counts(*total)}


@_parts.register
def _(posterior: GammaNatural, prior: GammaNatural) -> dict[str, PriorShare]:
    return {"": _of_counts(posterior.concentration, prior.concentration)}


@_parts.register
def _(posterior: GaussianNatural, prior: GaussianNatural) -> dict[str, PriorShare]:
    return {"": PriorShare(_of_precisions(posterior.precision, prior.precision))}


@_parts.register
def _(posterior: RegressionNatural, prior: RegressionNatural) -> dict[str, PriorShare]:
    covariance = _of_counts(posterior.df, prior.df)
    if posterior.uu.shape[-1] == 0:
        return {"": covariance}
    share = PriorShare(_of_precisions(posterior.uu, prior.uu))
    if posterior.uu.shape[-1] == 1:
        share = _of_counts(posterior.uu[..., 0, 0], prior.uu[..., 0, 0])
    return {"weight": share, "covariance": covariance}


def _of_counts(posterior: Any, prior: Any) -> PriorShare:
    posterior = np.asarray(posterior)
    prior = np.broadcast_to(prior, posterior.shape)
    return PriorShare(prior / posterior, prior, posterior - prior)


def _of_precisions(posterior: Any, prior: Any) -> np.ndarray:
    """The mean over directions of the part of a precision that is the prior's.

    It is ``tr(J^-1 J_0) / N``: one less the number of well-determined parameters, of
    all (MacKay, *Bayesian interpolation*, Neural Computation 1992).
    """
    prior = jnp.broadcast_to(prior, posterior.shape)
    ratio = jnp.linalg.solve(posterior, prior)
    return np.asarray(jnp.trace(ratio, axis1=-2, axis2=-1) / ratio.shape[-1])
