# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Independent Gaussians conditioned on Gaussian potentials."""

from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.chain_steps import Gaussian, no_steps
from numpyro_svae.blocks.elimination import cholesky
from numpyro_svae.blocks.filtering import Filtered, filter_chain
from numpyro_svae.blocks.layout import from_lanes, to_lanes
from numpyro_svae.potentials import GaussianPotential

__all__ = ["GaussianPosterior", "condition"]


class GaussianPosterior(NamedTuple):
    """Exact posterior of a batch of Gaussians.

    Shapes: ``mean (..., D)``, ``covariance`` and ``scale_tril (..., D, D)``, and
    ``log_normalizer (...)``.
    """

    mean: Array
    covariance: Array
    scale_tril: Array
    log_normalizer: Array


def condition(
    loc: Array, covariance: Array, potential: GaussianPotential
) -> GaussianPosterior:
    r"""Condition :math:`x \sim N(m, P)` on a potential.

    .. math::

        P_f = (P^{-1} + J)^{-1}, \quad m_f = m + P_f (h - J m), \quad
        \log Z = \log \int N(x; m, P) \, e^{h^\top x - \frac12 x^\top J x} \, dx

    It is a Gaussian chain of one step, and shares its safe form and derivative rule.

    :param loc: :math:`m`, shape ``(..., D)``.
    :param covariance: :math:`P`, shape ``(..., D, D)``.
    :param potential: its batch shape broadcasts with that of the prior.
    """
    batch = jnp.broadcast_shapes(
        loc.shape[:-1], covariance.shape[:-2], potential.batch_shape
    )
    initial = Gaussian(
        to_lanes(loc, 1, batch, time=False), to_lanes(covariance, 2, batch, time=False)
    )
    rank = 1 if potential.is_diagonal else 2
    filtered, tril = _condition_lanes(
        initial,
        to_lanes(potential.info_vector, 1, batch, time=False)[..., None, :],
        to_lanes(potential.precision, rank, batch, time=False)[..., None, :],
    )
    return GaussianPosterior(
        from_lanes(filtered.mean[..., 0, :], 1, batch, time=False),
        from_lanes(filtered.cov[..., 0, :], 2, batch, time=False),
        from_lanes(tril[..., 0, :], 2, batch, time=False),
        from_lanes(filtered.log_normalizer, 0, batch, time=False),
    )


@jax.jit
def _condition_lanes(initial: Gaussian, h: Array, J: Array) -> tuple[Filtered, Array]:
    steps = no_steps(initial.mean.shape[0], initial.mean.dtype)
    filtered = filter_chain(initial, steps, h, J)
    return filtered, cholesky(filtered.cov)
