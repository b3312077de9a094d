# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A chain conditioned on what its expected dynamics leave over, and on what is said."""

from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from numpyro_svae.distributions.kl import Path
from numpyro_svae.inference.chains import ChainPrior

BATCH, STEPS, DIM = 3, 5, 2


def problem(leftover_batch, with_inputs):
    """A prior chain with a left-over potential, and diagonal potentials."""
    a, b, c, d, e = random.split(random.key(0), 5)
    inputs = random.normal(a, (BATCH, STEPS - 1, 1)) if with_inputs else None
    columns = DIM + with_inputs
    chain = ns.LinearGaussianChain(
        jnp.ones(DIM),
        jnp.eye(DIM),
        0.5 * random.normal(b, (DIM, columns)),
        0.3 * jnp.eye(DIM),
        inputs=inputs,
        num_steps=STEPS,
    )
    root = random.normal(c, (*leftover_batch, STEPS, DIM, DIM))
    info = random.normal(d, ((BATCH,) if with_inputs else ()) + (STEPS, DIM))
    info = jnp.broadcast_to(info, jnp.broadcast_shapes(info.shape, root.shape[:-1]))
    leftover = ns.GaussianPotential(info, root @ jnp.swapaxes(root, -1, -2))
    loc = random.normal(e, (BATCH, STEPS, DIM))
    said = ns.GaussianPotential.from_loc_scale(loc, jnp.exp(loc[::-1]))
    return ChainPrior(chain, leftover, jnp.asarray(0.7)), said


@pytest.mark.x64
@pytest.mark.parametrize(
    ("batch", "with_inputs"), [((), False), ((1,), True), ((BATCH,), True)]
)
def test_the_left_over_may_come_first(batch, with_inputs):
    prior, said = problem(batch, with_inputs)
    found = prior.condition(said)
    expected, total = prior.chain.condition(said + prior.leftover)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-10)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-10)
    cross = expected.neighbor_covariance
    np.testing.assert_allclose(found.neighbor_covariance, cross, atol=1e-10)
    # log Z = E log prior + E said + entropy
    value = prior.expected(Path.of(found), found.mean, found.covariance)
    value = value + jnp.sum(said.expected(found.mean, found.covariance), -1)
    np.testing.assert_allclose(value + found.entropy(), total + 0.7, rtol=1e-10)
