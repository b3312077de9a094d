# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One small program that the tests of training share."""

from typing import Any, NamedTuple

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.training import shuffled
from tests.models import decoder, encoder, vector_prior

SIZE, BATCH = 40, 10


def factor_svae(y, size=SIZE):
    """A Gaussian behind a nonlinear decoder, from all of its data or from a batch."""
    loc, cov = vector_prior("prior", 2)
    with numpyro.plate("data", size, subsample_size=len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(loc, cov))
        numpyro.sample("y", dist.Normal(decoder(x), 0.3).to_event(1), obs=y)


def factor_recognition(y, size=SIZE):
    """Its recognition function."""
    return {"x": encoder(y)}


class Problem(NamedTuple):
    """A program with data."""

    guide: ns.AutoSVAE
    svi: SVI
    y: Any

    def batches(self):
        """Minibatches without end, the same every time."""
        return (self.y[index] for index in shuffled(SIZE, BATCH, seed=3))


def problem():
    """A new guide and SVI, which know nothing of earlier runs."""
    x = np.random.default_rng(0).standard_normal((SIZE, 2))
    y = np.tanh(x @ np.array([[1.0, 0.5, -0.5], [0.2, -1.0, 1.0]]))
    guide = ns.AutoSVAE(factor_svae, factor_recognition)
    optimizer = ns.svae_optimizer(optax.adam(1e-2), 0.2)
    svi = SVI(factor_svae, guide, optimizer, ns.SVAE_ELBO())
    return Problem(guide, svi, y.astype(np.float32))


@pytest.fixture(scope="session")
def small():
    """A guide that has read its model."""
    with jax.enable_x64(False):
        found = problem()
        found.svi.init(random.PRNGKey(0), found.y)
    assert found.y.dtype == jnp.float32
    return found
