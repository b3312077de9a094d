# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A plate in the body of a scan has the members that it has outside.

NumPyro opens it anew at each step, with members of its own where it subsamples.
"""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns

KEY, N, T, BATCH = random.PRNGKey(0), 5, 4, 2
Y = jnp.asarray(np.random.default_rng(0).standard_normal((N, T)) + 3 * np.eye(N, T))


def chains(y, subsample=None, inside=True):
    """Paths, of which data are picked in the body or before the scan."""
    sequences = partial(numpyro.plate, "sequences", len(y), subsample_size=subsample)
    with sequences() as index:
        x = numpyro.sample("first", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
        numpyro.sample("y_first", dist.Normal(x[..., 0], 0.5), obs=y[index, 0])
    rest = y.T[1:] if inside else y[index].T[1:]

    def step(x, y):
        with sequences() as index:
            x = numpyro.sample("x", dist.Normal(0.9 * x, 1.0).to_event(1))
            numpyro.sample(
                "y", dist.Normal(x[..., 0], 0.5), obs=y[index] if inside else y
            )
        return x, None

    scan(step, x, rest)


@pytest.mark.parametrize("inside", [True, False])
def test_all_sequences_of_a_scan_are_found_batch_by_batch(inside):
    model = partial(chains, subsample=BATCH, inside=inside)
    whole, guide = ns.AutoSVAE(chains), ns.AutoSVAE(model)
    expected = whole.posterior_local({}, Y)["x"].mean
    found = guide.posterior_local({}, Y)["x"].mean
    assert found.shape == (N, T, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    own = ns.log_likelihood(model, guide, {}, KEY, Y).value
    np.testing.assert_allclose(
        own, ns.log_likelihood(chains, whole, {}, KEY, Y).value, rtol=1e-5
    )
