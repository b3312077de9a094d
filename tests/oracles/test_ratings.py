# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Matrix factorisation of ratings with learnt noise and biases: each block is at the
fixed point of its update given the others, and the loss is their bound."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO
import pytest
from scipy.special import digamma

import numpyro_svae as ns
from tests.data import make_svi, steps

ROWS, COLUMNS, RANK, COUNT = 7, 5, 2, 30
RNG = np.random.default_rng(0)
ROW, COLUMN = np.arange(COUNT) % ROWS, RNG.integers(0, COLUMNS, COUNT)
FACTOR = RNG.uniform(0.5, 2.0, COUNT)  # of the noise
Y = np.sum(
    RNG.standard_normal((ROWS, RANK))[ROW]
    * RNG.standard_normal((COLUMNS, RANK))[COLUMN],
    -1,
)
Y = 0.5 + Y + 0.3 * FACTOR * RNG.standard_normal(COUNT)
SEEN = np.arange(COUNT) != 3


def ratings(row, column, y):
    standard = dist.Normal(0.0, 1.0).expand([RANK]).to_event(1)
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", ROWS):
        u = numpyro.sample("u", standard)
        a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    root = jnp.array([[1.0, 0.0], [0.5, 1.0]])
    with numpyro.plate("columns", COLUMNS):
        v = numpyro.sample("v", dist.MultivariateNormal(jnp.ones(2), scale_tril=root))
    with numpyro.plate("ratings", len(y)):
        loc = 0.5 + a[row] + 2.0 * jnp.sum(u[row] * v[column], -1)
        fn = dist.Normal(loc, FACTOR / jnp.sqrt(tau)).mask(SEEN)
        numpyro.sample("y", fn, obs=y)


@pytest.fixture
def fitted():
    guide = ns.AutoSVAE(ratings)
    args = ROW, COLUMN, np.where(SEEN, Y, np.nan)
    params, losses = steps(make_svi(ratings, guide, natural=0.5), 400, *args)
    return guide, params, losses[-1], args


def expected_squares(found, row, column):
    """Of the residuals, under independent posteriors."""
    mean, square = {}, {}
    for name in "uv":
        mean[name] = m = np.asarray(found[name].mean)
        covariance = np.asarray(found[name].covariance_matrix)
        square[name] = m[:, :, None] * m[:, None] + covariance
    a = found["a"]
    product = 2 * np.sum(mean["u"][row] * mean["v"][column], -1)
    both = 4 * np.sum(square["u"][row] * square["v"][column], (1, 2))
    residual = Y - 0.5 - np.asarray(a.mean)[row] - product
    return residual**2 + both - product**2 + np.asarray(a.variance)[row]


def test_each_side_is_at_the_fixed_point_of_its_update(fitted, x64):
    guide, params, loss, args = fitted
    found = guide.get_posterior(params)
    tau, weight = found["tau"].mean, SEEN / FACTOR**2
    a, va = np.asarray(found["a"].mean), np.asarray(found["a"].variance)
    u, v = (np.asarray(found[n].mean) for n in "uv")
    cu, cv = (np.asarray(found[n].covariance_matrix) for n in "uv")
    residual = Y - 0.5 - a[ROW]

    def update(index, count, prior, mean, other, spread):
        """Mean and covariance of one side, given the other where the data are."""
        precision, info = (
            np.tile(prior, (count, 1, 1)),
            np.tile(prior @ mean, (count, 1)),
        )
        square = other[..., :, None] * other[..., None, :] + spread
        np.add.at(precision, index, 4 * tau * weight[:, None, None] * square)
        np.add.at(info, index, 2 * tau * (weight * residual)[:, None] * other)
        cov = np.linalg.solve(precision, np.eye(2))
        return np.squeeze(cov @ info[..., None], -1), cov

    prior = np.array([[1.25, -0.5], [-0.5, 1.0]])
    mean, cov = update(ROW, ROWS, np.eye(2), np.zeros(2), v[COLUMN], cv[COLUMN])
    np.testing.assert_allclose(u, mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(cu, cov, rtol=1e-6, atol=1e-8)
    mean, cov = update(COLUMN, COLUMNS, prior, np.ones(2), u[ROW], cu[ROW])
    np.testing.assert_allclose(v, mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(cv, cov, rtol=1e-6, atol=1e-8)

    product = 2 * np.sum(u[ROW] * v[COLUMN], -1)
    precision = 1 / 4 + tau * np.bincount(ROW, weight, ROWS)
    info = tau * np.bincount(ROW, weight * (Y - 0.5 - product), ROWS)
    np.testing.assert_allclose(va, 1 / precision, rtol=1e-6)
    np.testing.assert_allclose(a, info / precision, rtol=1e-6, atol=1e-8)

    squares = expected_squares(found, ROW, COLUMN)
    shape, rate = 2 + SEEN.sum() / 2, 1 + np.sum(weight * squares) / 2
    np.testing.assert_allclose(found["tau"].concentration, shape)
    np.testing.assert_allclose(found["tau"].rate, rate, rtol=1e-6)

    log_tau = digamma(shape) - np.log(rate)
    log_prob = log_tau - np.log(2 * np.pi * FACTOR**2) - tau * weight * squares
    loss = loss + 0.5 * np.sum(SEEN * log_prob)
    blocks = (np.eye(2), np.zeros(2), u, cu), (prior, np.ones(2), v, cv)
    for precision, centre, mean, cov in blocks:
        moved = np.einsum("ni,ij,nj->n", mean - centre, precision, mean - centre)
        traces = np.trace(precision @ cov, axis1=-2, axis2=-1)
        logs = np.linalg.slogdet(precision)[1] + np.linalg.slogdet(cov)[1]
        loss -= 0.5 * np.sum(moved + traces - 2 - logs)
    loss -= 0.5 * np.sum((a**2 + va) / 4 - 1 - np.log(va / 4))
    gamma = dist.Gamma(2.0, 1.0)
    loss -= dist.kl_divergence(dist.Gamma(shape, rate), gamma)
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)

    def one(key):
        return Trace_ELBO().loss(key, params, ratings, guide, *args[:2], Y)

    draws = np.asarray(jax.vmap(one)(random.split(random.PRNGKey(0), 4000)))
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - fitted[2]) < 4 * error < 1.0


def test_which_rows_data_have_is_read_in_every_step(fitted, x64):
    guide, params, loss, args = fitted
    found, other = guide.get_posterior(params), (ROW[::-1].copy(), COLUMN[::-1].copy())
    changed = ns.SVAE_ELBO().loss(
        random.PRNGKey(0), params, ratings, guide, *other, args[2]
    )
    more = expected_squares(found, *other) - expected_squares(found, ROW, COLUMN)
    expected = 0.5 * found["tau"].mean * np.sum(SEEN / FACTOR**2 * more)
    np.testing.assert_allclose(changed - loss, expected, rtol=1e-6)
