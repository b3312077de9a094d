# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Quadratic costs by regression."""

from __future__ import annotations

from math import sqrt

from jax import Array, lax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular
import numpy as np

from numpyro_svae.control.cost import QuadraticCost, convex
from numpyro_svae.control.path_moments import Paths, path_moments

__all__ = ["fit_quadratic_cost"]


def fit_quadratic_cost(
    states: Paths,
    actions: Array,
    costs: Array,
    *,
    ridge: float = 1e-4,
    num_steps: int = 500,
) -> QuadraticCost:
    r"""The convex quadratic function of states and actions nearest to observed costs.

    Least squares under the constraint that the matrix of the quadratic form is positive
    semi-definite, by accelerated projected gradients (Beck and Teboulle, *A fast
    iterative shrinkage-thresholding algorithm*, SIAM J. Imaging Sciences 2009) in
    coordinates in which ``[x; a]`` is standardised. Where states are smoothed, what is
    fitted is the *expected* cost given the data: their uncertainty is neither taken for
    a part of the cost nor does it flatten it.

    :param states: N paths of T + 1 states: a distribution, such as
        ``guide.posterior_local(params, ...)["x"]``, or known states ``(N, T + 1, D)``.
    :param actions: ``(N, T, A)``.
    :param costs: of each action and the state that it was taken in, ``(N, T)``: rewards
        with the other sign.
    :param ridge: what one half of a squared entry of the standardised matrix and slope
        adds to the mean squared error, in units of the variance of the costs.
    :param num_steps: of the projected gradients.
    :return: a cost with all parts; its target is zero. The actions need not be part of
        what was observed: where their curvature is zero, add some of it to ``action``.
    :raises ValueError: if shapes do not fit.
    """
    moments = path_moments(states)
    mean, covariance = moments.mean[:, :-1], moments.covariance[:, :-1]
    dim = mean.shape[-1]
    if jnp.shape(costs) != mean.shape[:2] or jnp.shape(actions)[:-1] != mean.shape[:2]:
        raise ValueError(
            f"states, actions, costs: found shapes {moments.mean.shape}, "
            f"{jnp.shape(actions)} and {jnp.shape(costs)}; accepted are (N, T + 1, D), "
            "(N, T, A) and (N, T)."
        )
    z = jnp.concatenate([mean, jnp.asarray(actions, mean.dtype)], -1)
    z, count = z.reshape(-1, z.shape[-1]), z.shape[-1]
    pad = [(0, 0), *[(0, count - dim)] * 2]
    unsure = jnp.pad(covariance.reshape(-1, dim, dim), pad)
    centre, tril = _standardise(z, unsure)
    z = solve_triangular(tril, (z - centre).T, lower=True).T
    unsure = _whiten(tril, unsure)
    price = jnp.asarray(costs, z.dtype).reshape(-1)
    level, size = jnp.mean(price), jnp.std(price)
    size = jnp.where(size > 0, size, 1.0)
    matrix, slope, constant = _regress(
        z, unsure, (price - level) / size, ridge, num_steps
    )
    half = solve_triangular(tril, matrix, lower=True, trans=1)
    matrix = size * solve_triangular(tril, half.T, lower=True, trans=1)
    matrix = 0.5 * (matrix + matrix.T)
    slope = size * solve_triangular(tril, slope, lower=True, trans=1)
    constant = level + size * constant - slope @ centre + 0.5 * centre @ matrix @ centre
    slope = slope - matrix @ centre
    return QuadraticCost(
        matrix[:dim, :dim],
        matrix[dim:, dim:],
        jnp.zeros(dim, z.dtype),
        matrix[dim:, :dim],
        slope[:dim],
        slope[dim:],
        constant,
    )


def _standardise(z: Array, unsure: Array) -> tuple[Array, Array]:
    """The mean of vectors, and the Cholesky factor of their covariance.

    Where they do not vary, such as an action that is always the same, it has the
    rounding of the others: what is regressed on it there is shrunk to nothing.
    """
    centre = jnp.mean(z, 0)
    spread = (z - centre).T @ (z - centre) / len(z) + jnp.mean(unsure, 0)
    least = 10 * jnp.finfo(z.dtype).eps * jnp.trace(spread)
    return centre, jnp.linalg.cholesky(spread + least * jnp.eye(len(centre)))


def _whiten(tril: Array, matrices: Array) -> Array:
    """``tril^-1 matrices tril^-T``."""
    tril = jnp.broadcast_to(tril, matrices.shape)
    half = solve_triangular(tril, matrices, lower=True)
    return solve_triangular(tril, half.mT, lower=True)


def _regress(
    z: Array, unsure: Array, price: Array, ridge: float, num_steps: int
) -> tuple[Array, Array, Array]:
    """Matrix, slope and constant of the nearest convex function, for standard z.

    A symmetric matrix is a vector of its entries, those off the diagonal once and times
    the root of two: so lengths are those of matrices, and so are projections.
    """
    size = z.shape[-1]
    rows, columns = np.tril_indices(size)
    times = jnp.where(rows == columns, 1.0, sqrt(2)).astype(z.dtype)
    second = z[:, :, None] * z[:, None, :] + unsure
    curved = 0.5 * times * second[:, rows, columns]
    flat = jnp.concatenate([z, jnp.ones_like(z[:, :1])], -1)
    penalty = ridge * jnp.eye(size + 1).at[-1, -1].set(0.0)
    own = cho_factor(flat.T @ flat / len(z) + penalty, lower=True)
    mixed = flat.T @ curved / len(z)
    known = flat.T @ price / len(z)
    gram = curved.T @ curved / len(z) + ridge * jnp.eye(len(rows))
    gram = gram - mixed.T @ cho_solve(own, mixed)
    goal = curved.T @ price / len(z) - mixed.T @ cho_solve(own, known)

    def full(vector: Array) -> Array:
        lower = jnp.zeros((size, size), z.dtype).at[rows, columns].set(vector / times)
        return lower + jnp.tril(lower, -1).T

    def project(vector: Array) -> Array:
        return times * convex(full(vector))[rows, columns]

    rate = 1.0 / jnp.linalg.eigvalsh(gram)[-1]

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        now, ahead, age = state
        new = project(ahead - rate * (gram @ ahead - goal))
        older = 0.5 * (1 + jnp.sqrt(1 + 4 * age**2))
        back = (ahead - new) @ (new - now) > 0  # momentum that leads astray is dropped
        older = jnp.where(back, 1.0, older)
        push = jnp.where(back, 0.0, (age - 1) / older)
        return (new, new + push * (new - now), older), None

    start = project(cho_solve(cho_factor(gram, lower=True), goal))
    state = start, start, jnp.ones((), z.dtype)
    (found, _, _), _ = lax.scan(step, state, None, num_steps)
    rest = cho_solve(own, known - mixed @ found)
    return full(found), rest[:-1], rest[-1]
