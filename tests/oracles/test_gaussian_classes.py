# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian vectors of NumPyro's other classes are read by their covariance."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_svae.program.run.steps import Steps
from numpyro_svae.program.run.wrappers import peel
from tests.reading import assert_read_alike

pytestmark = pytest.mark.x64

N, T, D = 3, 5, 2
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, T, D))
FACTOR, DIAGONAL = np.array([[0.5], [0.3]]), np.array([0.4, 0.6])
COV = FACTOR @ FACTOR.T + np.diag(DIAGONAL)


def dense(loc):
    return dist.MultivariateNormal(loc, COV)


def low_rank(loc):
    factor, diagonal = jnp.asarray(FACTOR), jnp.asarray(DIAGONAL)
    return dist.LowRankMultivariateNormal(loc, factor, diagonal)


def components(normal):
    """Priors of means, and the vectors that labels pick them for."""
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", normal(jnp.zeros(D)))
    with numpyro.plate("data", N):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
        numpyro.sample("y", normal(mu[z]), obs=Y[:, 0])


def test_a_low_rank_normal_is_read_as_that_of_its_covariance():
    assert_read_alike(partial(components, low_rank), partial(components, dense))


def test_a_low_rank_normal_in_a_scan():
    loc = jnp.array([0.5, -1.0])
    found = Steps.of(low_rank(loc)).gaussian(low_rank(loc))
    for pair in zip(found, (loc, COV)):
        np.testing.assert_allclose(*pair, rtol=1e-9)


@pytest.mark.parametrize(
    "made",
    [
        low_rank(jnp.array([0.5, -1.0])),
        dist.CirculantNormal(jnp.ones(4), jnp.array([2.0, 0.5, 0.2, 0.5])),
        dist.CAR(1.0, 0.4, 2.0, jnp.ones((3, 3)) - jnp.eye(3)),
        dist.GaussianRandomWalk(jnp.array([0.5, 2.0]), 4),
    ],
    ids=lambda made: type(made).__name__,
)
def test_classes_of_gaussian_vectors(made):
    shape = made.shape()
    base, mask, extra = peel(made.expand((3, *made.batch_shape)).to_event(1))
    assert isinstance(base, dist.MultivariateNormal) and mask is None and extra == 1
    value = RNG.standard_normal(shape)
    found, expected = base.log_prob(value), made.log_prob(value)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
