# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Chains under ``vmap`` whose arguments have unequal numbers of batch dimensions."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.batch_util import promote_batch_shape
import pytest

import numpyro_svae as ns

STEPS, BATCH = 3, 4


def gaussian(loc, cov, rows):
    """The location has a batch; the covariance, the transitions have none."""
    matrix = 0.5 * rows
    return ns.LinearGaussianChain(loc, cov, matrix, 2.0 * cov, num_steps=STEPS)


def gaussian_with_inputs(loc, cov, rows):
    """Only the inputs have a batch, and the lengths."""
    matrix = jnp.concatenate([0.5 * rows, jnp.ones((2, 1))], -1)
    inputs = jnp.broadcast_to(loc[:, None, :1], (BATCH, STEPS - 1, 1))
    lengths = jnp.array([3, 2, 1, 3])
    arguments = loc[0], cov, matrix, cov
    return ns.LinearGaussianChain(*arguments, inputs=inputs, lengths=lengths)


def discrete(loc, cov, rows):
    """The first state has a batch; the transitions have none."""
    return ns.DiscreteMarkovChain(jax.nn.softmax(loc), rows, STEPS)


def discrete_by_step(loc, cov, rows):
    """The transitions have a batch; the first state has none."""
    steps = jax.nn.softmax(loc[:, None, None] + jnp.log(rows))
    return ns.DiscreteMarkovChain(jax.nn.softmax(loc[0]), steps, STEPS)


MAKERS = [gaussian, gaussian_with_inputs, discrete, discrete_by_step]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(  # a size that broadcasts, and another
    "count, nested", [(BATCH, False), (5, True)]
)
def test_density_of_each_chain(make, count, nested):
    rng = np.random.default_rng(3)
    loc = jnp.asarray(rng.standard_normal((count, BATCH, 2)))
    cov = jnp.asarray(rng.uniform(0.5, 2.0, (count, 1, 1)) * np.eye(2))
    rows = jnp.asarray(rng.dirichlet(np.ones(2), (count, 2)))
    chains = [make(*a) for a in zip(loc, cov, rows)]
    values = jnp.stack([c.sample(random.key(n)) for n, c in enumerate(chains)])
    expected = jnp.stack([c.log_prob(v) for c, v in zip(chains, values)])
    mapped, arguments = jax.vmap(make), (loc, cov, rows)
    if nested:
        mapped = jax.vmap(mapped)
        arguments = tuple(jnp.stack([a, a]) for a in arguments)
        values, expected = jnp.stack([values] * 2), jnp.stack([expected] * 2)
    promoted = promote_batch_shape(mapped(*arguments))
    assert promoted.batch_shape == expected.shape
    np.testing.assert_allclose(promoted.log_prob(values), expected, rtol=1e-5)
    assert promoted.sample(random.key(0)).shape == values.shape
    again = promote_batch_shape(promoted)
    assert again.batch_shape == expected.shape
