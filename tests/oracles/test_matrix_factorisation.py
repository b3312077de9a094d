# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Vectors that are multiplied do not stay at a saddle point, where none has a mean."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_svae as ns
from tests.data import make_svi

ROWS, COLUMNS, RANK = 20, 15, 2


def factorisation(y):
    rows = numpyro.plate("rows", ROWS, dim=-2)
    columns = numpyro.plate("columns", COLUMNS, dim=-1)
    standard = dist.Normal(jnp.zeros(RANK), 1.0).to_event(1)
    with rows:
        u = numpyro.sample("u", standard)
    with columns:
        v = numpyro.sample("v", standard)
    with rows, columns:
        numpyro.sample("y", dist.Normal(jnp.sum(u * v, -1), 1.0), obs=y)


def ratings(seed):
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((ROWS, RANK)), rng.standard_normal((COLUMNS, RANK))
    return u @ v.T + rng.standard_normal((ROWS, COLUMNS))


def loss_from(u, v, y):
    """That of coordinate ascent from given means, in closed form."""
    eye = np.eye(RANK)
    cov_v = 0.1 * eye
    for _ in range(1000):
        cov_u = np.linalg.solve(eye + v.T @ v + len(v) * cov_v, eye)
        u = y @ v @ cov_u
        cov_v = np.linalg.solve(eye + u.T @ u + len(u) * cov_u, eye)
        v = y.T @ u @ cov_v
    square_u, square_v = (
        np.einsum("ni,nj->nij", x, x) + cov for x, cov in ((u, cov_u), (v, cov_v))
    )
    squares = y**2 - 2 * y * (u @ v.T) + np.einsum("rij,cij->rc", square_u, square_v)
    loss = 0.5 * np.sum(squares + np.log(2 * np.pi))
    for square, cov in (square_u, cov_u), (square_v, cov_v):
        trace = np.trace(square, axis1=-2, axis2=-1)
        loss += 0.5 * np.sum(trace - RANK - np.linalg.slogdet(cov)[1])
    return loss


def test_vectors_that_are_multiplied_leave_the_saddle_point():
    guide = ns.AutoSVAE(factorisation)
    svi = make_svi(factorisation, guide)
    state = svi.init(random.PRNGKey(0), ratings(0))
    loss = jax.jit(svi.evaluate)
    for seed in range(4):
        y = ratings(seed)
        left, values, right = np.linalg.svd(y, full_matrices=False)
        root = np.sqrt(values[:RANK])
        best = loss_from(left[:, :RANK] * root, right[:RANK].T * root, y)
        saddle = loss_from(np.zeros((ROWS, RANK)), np.zeros((COLUMNS, RANK)), y)
        assert best < saddle - 30.0
        np.testing.assert_allclose(loss(state, y), best, rtol=1e-3)
