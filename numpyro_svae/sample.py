# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sampling statements that return named parts instead of one packed array."""

from __future__ import annotations

from typing import Any

from jax import Array
import numpyro
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)

from numpyro_svae.distributions import (
    MatrixNormalInverseWishart,
    NormalInverseWishart,
)

__all__ = ["sample"]

_PARTS = {
    MatrixNormalInverseWishart: ("weight", "cov"),
    NormalInverseWishart: ("loc", "cov"),
}


def sample(
    name: str, distribution: Distribution, *args: Any, **kwargs: Any
) -> tuple[Array, Array]:
    """Sample a joint prior and return its two parts.

    The site ``name`` holds the packed event, as NumPyro's inference needs it; its parts
    are recorded as deterministic sites with readable names.

    :param name: name of the site.
    :param distribution: a :class:`~numpyro_svae.NormalInverseWishart` or a
        :class:`~numpyro_svae.MatrixNormalInverseWishart`, or one of them after
        ``expand``, ``mask`` or ``to_event``.
    :param args: further positional arguments of :func:`numpyro.sample`.
    :param kwargs: further keyword arguments of :func:`numpyro.sample`, such as ``obs``
        (a packed event) and ``infer``.
    :return: mean (..., D) and covariance (..., D, D), also at the sites ``<name>_loc``
        and ``<name>_cov``; or weight (..., D, M) and covariance, at ``<name>_weight``
        and ``<name>_cov``.

    **Example**

    .. code-block:: python

        prior = ns.NormalInverseWishart(jnp.zeros(2), 1.0, 4.0, jnp.eye(2))
        mu, Sigma = ns.sample("init", prior)
    """
    base = _unwrap(distribution)
    parts = _PARTS.get(type(base))
    if parts is None:
        accepted = " or ".join(cls.__name__ for cls in _PARTS)
        raise TypeError(
            f"Site '{name}': numpyro_svae.sample takes a {accepted}; got a "
            f"{type(base).__name__}. Use numpyro.sample for other distributions."
        )
    values = base.unpack(numpyro.sample(name, distribution, *args, **kwargs))
    for part, value in zip(parts, values, strict=True):
        numpyro.deterministic(f"{name}_{part}", value)
    return values


def _unwrap(distribution: Distribution) -> Distribution:
    while isinstance(
        distribution, ExpandedDistribution | Independent | MaskedDistribution
    ):
        distribution = distribution.base_dist
    return distribution
