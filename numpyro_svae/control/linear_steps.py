# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Linear steps that are known up to their posterior, as control needs them."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp

from numpyro_svae.distributions import MatrixNormalInverseWishart
from numpyro_svae.families.matrices import inverse_from_tril

__all__ = ["Dynamics", "LinearSteps", "linear_steps"]

Dynamics = MatrixNormalInverseWishart | tuple[Array, Array]


class LinearSteps(NamedTuple):
    """Steps of ``z = [x; a]``: what is expected of the next state and of its square.

    The next state has the mean ``weight z + bias`` and, given z, the covariance
    ``noise (1 + z' spread z + 2 tilt' z + excess)``: the expected noise, and what the
    posterior of the weight leaves open.

    :param weight: ``(T, D, D + A)``.
    :param bias: ``(T, D)``.
    :param noise: ``(T, D, D)``.
    :param spread: ``(T, D + A, D + A)``.
    :param tilt: ``(T, D + A)``.
    :param excess: ``(T,)``.
    """

    weight: Array
    bias: Array
    noise: Array
    spread: Array
    tilt: Array
    excess: Array


def linear_steps(
    dynamics: Dynamics, count: int, horizon: int, known: Array | None
) -> LinearSteps:
    """The steps of a posterior, with inputs that are known.

    :param dynamics: the posterior of (F, Q), with F of shape ``(D, D + A + E)``, or F
        and Q themselves; for all steps, or with a batch of ``(T,)``.
    :param count: number A of actions.
    :param horizon: number T of steps.
    :param known: the inputs after the actions, ``(T, E)`` or ``(E,)``.
    :raises ValueError: if shapes do not fit.
    """
    if isinstance(dynamics, MatrixNormalInverseWishart):
        weight, batch = dynamics.loc, dynamics.batch_shape
        noise = dynamics.mean[..., weight.shape[-1] :]
        columns = inverse_from_tril(jnp.linalg.cholesky(dynamics.column_precision))
    else:
        weight, noise = map(jnp.asarray, dynamics)
        batch = jnp.broadcast_shapes(weight.shape[:-2], noise.shape[:-2])
        columns = jnp.zeros((weight.shape[-1],) * 2, weight.dtype)
    dim, width = weight.shape[-2:]
    extra = 0 if known is None else jnp.shape(known)[-1]
    if batch not in ((), (horizon,)) or width != dim + count + extra:
        raise ValueError(
            f"dynamics: found batch shape {batch} and a weight of shape {(dim, width)},"
            f" with {count} actions and {extra} known inputs; accepted are the batch "
            f"shapes () and ({horizon},), and ({dim}, {dim} + {count} + {extra})."
        )
    inputs = jnp.zeros(0, weight.dtype) if known is None else jnp.asarray(known)
    inputs = jnp.broadcast_to(inputs, (horizon, extra))[..., None]
    weight, noise, columns = (
        jnp.broadcast_to(a, (horizon, *a.shape[-2:])) for a in (weight, noise, columns)
    )
    own, rest = slice(0, dim + count), slice(dim + count, None)
    return LinearSteps(
        weight[..., own],
        (weight[..., rest] @ inputs)[..., 0],
        noise,
        columns[..., own, own],
        (columns[..., own, rest] @ inputs)[..., 0],
        (inputs.mT @ columns[..., rest, rest] @ inputs)[..., 0, 0],
    )
