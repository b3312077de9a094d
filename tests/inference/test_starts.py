# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Starts: components spread over the data, dynamics that neither die nor explode."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns
from numpyro_svae.families import RegressionNatural
from numpyro_svae.inference.start.dynamics import slow_dynamics
from tests.models import mixture


@pytest.mark.parametrize(
    "weight, kept",
    [
        ([[1.0, 0.5, 0.3], [0.0, 1.0, 0.0]], True),  # constant velocity, an input
        ([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0]], True),  # a rotation
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], False),  # says nothing
        ([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0]], False),  # explodes
        ([[1e9, 0.0, 0.0], [0.0, 1.0, 0.0]], False),
    ],
)
def test_dynamics_start_at_a_stable_prior_mean_or_at_a_slow_decay(weight, kept):
    weight = jnp.array(weight)
    prior = RegressionNatural.from_standard(
        weight, jnp.eye(3), jnp.eye(2), jnp.array(4.0)
    )
    start = slow_dynamics(random.PRNGKey(0), prior, 2).to_standard().loc
    expected = weight if kept else 0.95 * jnp.eye(2, 3)
    np.testing.assert_allclose(start, expected, atol=1e-5)


def test_components_start_spread_over_separate_clusters():
    centres = 10.0 * jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    noise = jax.random.normal(jax.random.PRNGKey(0), (3, 20, 2))
    data = (centres[:, None] + noise).reshape(-1, 2)
    guide = ns.AutoSVAE(mixture)
    svi = SVI(mixture, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    params = svi.get_params(svi.init(jax.random.PRNGKey(1), data))
    start = guide.get_posterior(params)["components"].mean[..., 0]
    distance = jnp.linalg.norm(start[:, None] - centres, axis=-1)
    assert sorted(np.argmin(distance, 1)) == [0, 1, 2]
    np.testing.assert_allclose(jnp.min(distance, 1), 0.0, atol=1.0)
