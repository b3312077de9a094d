# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Coefficients of regressions that move in time, or not at all, with a learnt noise.

The loading of the latent path is known, and another one at each step. The oracle is
coordinate ascent with dense matrices.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi, steps

pytestmark = pytest.mark.x64

T, D = 8, 2
RNG = np.random.default_rng(3)
REGRESSORS = RNG.standard_normal((T, D))
Y = REGRESSORS @ np.array([1.0, -2.0]) + 0.5 * RNG.standard_normal(T)
SHAPE, RATE = 2.0, 0.5


def moving(y):
    """A random walk of the coefficients."""
    precision = numpyro.sample("precision", dist.Gamma(SHAPE, RATE))
    eye = jnp.eye(D)
    chain = ns.LinearGaussianChain(jnp.zeros(D), 4 * eye, eye, 0.1 * eye, num_steps=T)
    x = numpyro.sample("x", chain)
    loc = jnp.sum(REGRESSORS * x, -1, keepdims=True)
    numpyro.sample("y", dist.Normal(loc, precision**-0.5).to_event(2), obs=y)


def still(y):
    """The same coefficients at all steps."""
    precision = numpyro.sample("precision", dist.Gamma(SHAPE, RATE))
    x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(D), 4 * jnp.eye(D)))
    with numpyro.plate("steps", T):
        loc = (REGRESSORS @ x)[:, None]
        numpyro.sample("y", dist.Normal(loc, precision**-0.5).to_event(1), obs=y)


def ascent(covariance: np.ndarray, loading: np.ndarray) -> float:
    """The rate of the precision where the best product has been reached."""
    concentration, rate = SHAPE + T / 2, RATE
    for _ in range(500):
        mean_precision = concentration / rate
        joint = loading @ covariance @ loading.T + np.eye(T) / mean_precision
        gain = np.linalg.solve(joint, loading @ covariance).T
        spread = covariance - gain @ loading @ covariance
        left = Y - loading @ (gain @ Y)
        rate = RATE + 0.5 * (left @ left + np.trace(loading @ spread @ loading.T))
    return rate


@pytest.mark.parametrize("model", [moving, still])
def test_known_loadings_of_each_step_beside_a_learnt_noise(model):
    times = np.arange(T)
    walk = 4 + 0.1 * np.minimum(times[:, None], times) if model is moving else 4.0
    covariance = np.kron(walk * np.ones((T, T)), np.eye(D))
    loading = np.zeros((T, T, D))
    loading[times, times] = REGRESSORS
    guide = ns.AutoSVAE(model)
    params, _ = steps(make_svi(model, guide, natural=0.5), 200, Y[:, None])
    found = guide.get_posterior(params)["precision"].rate
    expected = ascent(covariance, loading.reshape(T, T * D))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
