# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Potentials taken into the dynamics of a Gaussian chain, which keeps its direction.

What the future says of ``x_t`` is a potential with the precision

    C_t  =  J_t + A' (C_{t+1}^-1 + Q)^-1 A

and each step, conditioned on it, is one of the new chain. This is the recursion of a
filter, in which ``C`` are predicted covariances, ``J`` the noise, ``A'`` the dynamics
and ``Q`` the precision of potentials (the duality of estimation and control: Kalman,
*A new approach to linear filtering and prediction problems*, 1960). No marginal
covariance of the chain has a part in it: where dynamics are far from normal these are
so large that a chain that is reversed through them keeps no digits.
"""

import jax
from jax import Array
import jax.numpy as jnp

from numpyro_svae.blocks.chain_steps import Dynamics, Gaussian, no_steps
from numpyro_svae.blocks.filtering import filter_chain
from numpyro_svae.blocks.linalg import eye, matmul, matvec, square, transpose
from numpyro_svae.blocks.loops import first_steps, flip_steps, last_steps

__all__ = ["absorb"]


@jax.jit
def absorb(
    initial: Gaussian, dynamics: Dynamics, h: Array, J: Array
) -> tuple[Gaussian, Dynamics]:
    """The chain times potentials, normalised.

    :param initial: moments of ``x_0``.
    :param dynamics: the ``T - 1`` steps.
    :param h: of shape ``(D, T, N)``.
    :param J: of shape ``(D, D, T, N)``, or with one lane for all.
    """
    said = _from_the_future(dynamics, h, J)
    own = jax.tree.map(lambda x: x[..., :1, :], said)
    start = Gaussian(initial.mean[..., None, :], initial.cov[..., None, :])
    mean, cov, _ = _conditioned(start, own)
    first = Gaussian(mean[..., 0, :], cov[..., 0, :])
    noise = Gaussian(dynamics.bias, dynamics.cov)
    bias, cov, weight = _conditioned(noise, last_steps(said, h.shape[-2] - 1))
    return first, Dynamics(matmul(weight, dynamics.matrix), bias, cov)


def _from_the_future(dynamics: Dynamics, h: Array, J: Array) -> Gaussian:
    """``h`` and ``J`` of all that is said of each state by itself and later ones."""
    length = h.shape[-2]
    if length == 1:
        return Gaussian(h, J)
    last = jax.tree.map(lambda x: x[..., 0, :], last_steps(Gaussian(h, J), 1))
    inner = last_steps(first_steps((h, J), length - 1), length - 2)
    matrix = last_steps(transpose(dynamics.matrix), length - 2)
    shape = (*dynamics.bias.shape[:1], length - 1, dynamics.bias.shape[-1])
    bias = flip_steps(jnp.broadcast_to(-dynamics.bias, shape))
    dual = flip_steps(Dynamics(matrix, *inner))
    told = filter_chain(last, dual, bias, flip_steps(dynamics.cov))
    mean, cov = flip_steps((told.mean, told.cov))  # of what is said of later states
    past = first_steps((h, J), length - 1)
    back = matvec(transpose(dynamics.matrix), mean), square(dynamics.matrix, cov)
    return Gaussian(
        *(
            jnp.concatenate(_alike(own + passed, end[..., None, :]), -2)
            for own, passed, end in zip(past, back, last)
        )
    )


def _alike(*parts: Array) -> list[Array]:
    """Arrays ``(..., T, lanes)`` with the same lanes."""
    lanes = max(x.shape[-1] for x in parts)
    return [jnp.broadcast_to(x, (*x.shape[:-1], lanes)) for x in parts]


def _conditioned(prior: Gaussian, said: Gaussian) -> tuple[Array, Array, Array]:
    """Means and covariances of independent Gaussians, and ``(I + P J)^-1``."""
    h, J = said
    *_, steps, lanes = jnp.broadcast_shapes(prior.cov.shape, J.shape)
    flat = (*J.shape[:2], steps * lanes)
    cov, J_flat = (
        jnp.broadcast_to(x, (*x.shape[:2], steps, lanes)).reshape(flat)
        for x in (prior.cov, J)
    )
    zeros = jnp.zeros_like(cov[0])
    alone = no_steps(len(cov), cov.dtype)
    found = filter_chain(
        Gaussian(zeros, cov), alone, zeros[:, None], J_flat[:, :, None]
    )
    cov = found.cov[..., 0, :].reshape(*J.shape[:2], steps, lanes)
    weight = eye(cov) - matmul(cov, J)
    return matvec(weight, prior.mean) + matvec(cov, h), cov, weight
