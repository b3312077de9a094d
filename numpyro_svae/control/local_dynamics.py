# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Time-varying linear dynamics of recent paths, with a global posterior as prior."""

from __future__ import annotations

import jax
from jax import Array
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.control.path_moments import Paths, path_moments
from numpyro_svae.distributions import LinearGaussianChain, MatrixNormalInverseWishart
from numpyro_svae.families import RegressionNatural
from numpyro_svae.potentials import GaussianPotential

__all__ = ["fit_local_dynamics", "smooth_paths"]


def fit_local_dynamics(
    prior: MatrixNormalInverseWishart,
    states: Paths,
    inputs: Array,
    *,
    strength: float | None = None,
) -> MatrixNormalInverseWishart:
    r"""The posterior of the dynamics of each step, given paths that went through it.

    Near to the paths of one policy a system is linear that is not so elsewhere, with
    other dynamics at each step,

    .. math::

        x_{t+1} \sim N(F_t [x_t; a_t], Q_t), \qquad (F_t, Q_t) \sim \text{prior},

    whose posterior is conjugate (Zhang et al., *SOLAR: deep structured representations
    for model-based reinforcement learning*, ICML 2019). Pairs of neighbours enter by
    their expected statistics, so the paths may be smoothed ones.

    :param prior: of each step, with F of shape ``(D, D + A)``, such as the posterior of
        the dynamics of a fitted model.
    :param states: N paths of T + 1 states: a distribution, such as
        ``guide.posterior_local(params, ...)["x"]``, or known states ``(N, T + 1, D)``.
    :param inputs: the inputs at each step, ``(N, T, A)``: actions, and others.
    :param strength: the number of steps that the prior counts for, in place of those
        that it was fitted to: its means of F and of Q stay as they are. One that was
        fitted to many steps leaves little for a few paths to say.
    :return: the posterior, with a batch shape of ``(T,)``.
    :raises ValueError: if shapes do not fit, or if there is a strength and the prior
        has no expected noise, with ``D + 1`` degrees of freedom or fewer.
    """
    moments = path_moments(states)
    dim, width = prior.loc.shape[-2:]
    num_paths, num_steps = moments.cross.shape[:2]
    expected = (num_paths, num_steps, width - dim)
    if jnp.shape(inputs) != expected or moments.mean.shape[-1] != dim:
        raise ValueError(
            f"states, inputs: found shapes {moments.mean.shape} and "
            f"{jnp.shape(inputs)}; accepted for dynamics of shape {(dim, width)} are "
            f"(N, T + 1, {dim}) and (N, T, {width - dim})."
        )
    if strength is not None:
        prior = _of_strength(prior, strength)
    inputs = jnp.asarray(inputs, moments.mean.dtype)
    before = jnp.concatenate([moments.mean[:, :-1], inputs], -1)
    pairs = RegressionNatural.observe(moments.mean[:, 1:], before)
    pad = [(0, 0)] * 3 + [(0, width - dim)]
    cross = jnp.pad(moments.cross, pad)
    square = jnp.pad(moments.covariance[:, :-1], [*pad[:2], pad[3], pad[3]])
    unsure = RegressionNatural(
        moments.covariance[:, 1:], cross, square, jnp.zeros_like(pairs.df)
    )
    return prior.posterior(jax.tree.map(lambda a: jnp.sum(a, 0), pairs + unsure))


def smooth_paths(
    dynamics: MatrixNormalInverseWishart,
    start: dist.MultivariateNormal,
    inputs: Array,
    potential: GaussianPotential,
) -> LinearGaussianChain:
    """The posterior of paths whose dynamics are those of each step.

    States that the global model smoothed lean towards its dynamics. These lean towards
    the local ones: in turns with :func:`fit_local_dynamics` it is the coordinate ascent
    of the bound on the evidence, each being the best given the other.

    :param dynamics: the posterior of each step, with a batch shape of ``(T,)``.
    :param start: of the first state, ``(D,)``.
    :param inputs: the inputs at each step, ``(N, T, A)``.
    :param potential: what is seen of the states, with a batch shape of ``(N, T + 1)``,
        such as what the recognition function returns.
    :return: the best Gaussian given q(F_t, Q_t), a batch of N paths.
    :raises ValueError: if shapes do not fit.
    """
    weight, covariance, excess, _ = dynamics.natural_parameters.moments()
    (num_steps, dim, width), found = weight.shape, jnp.shape(inputs)
    if found[1:] != (num_steps, width - dim) or len(found) != 3:
        raise ValueError(
            f"inputs: found shape {found}; accepted for dynamics of shape "
            f"{weight.shape} are (N, {num_steps}, {width - dim})."
        )
    inputs = jnp.asarray(inputs, weight.dtype)
    first = start.mean, start.covariance_matrix
    chain = LinearGaussianChain(*first, weight, covariance, inputs=inputs)
    pull = (excess[:, :dim, dim:] @ inputs[..., None])[..., 0]
    square = jnp.pad(excess[:, :dim, :dim], [(0, 1), (0, 0), (0, 0)])
    unsure = GaussianPotential(
        jnp.pad(-pull, [(0, 0), (0, 1), (0, 0)]),
        jnp.broadcast_to(square, (len(inputs), *square.shape)),
    )
    return chain.condition(potential + unsure)[0]


def _of_strength(
    prior: MatrixNormalInverseWishart, strength: float
) -> MatrixNormalInverseWishart:
    """The prior that counts for so many steps, with the same means."""
    free = prior.df - prior.loc.shape[-2] - 1
    if not strength > 0:
        raise ValueError(f"strength: found {strength}; accepted are positive numbers.")
    share = strength / free
    return MatrixNormalInverseWishart(
        prior.loc,
        share[..., None, None] * prior.column_precision,
        prior.df - free + strength,
        scale_tril=jnp.sqrt(share)[..., None, None] * prior.scale_tril,
    )
