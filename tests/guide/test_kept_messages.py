# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Messages of likelihoods that are not conjugate are kept from step to step."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

N, D, P = 6, 2, 5
RNG = np.random.default_rng(1)
COUNTS, OTHER = jnp.asarray(1.0 * RNG.poisson(2.0, (2, N, P)))
LOADING = 0.7 * RNG.standard_normal((D, P))
KEY = random.PRNGKey(0)


def factors(y, size=None):
    """Counts by rates that are log-linear in a vector."""
    offset = numpyro.param("offset", jnp.zeros(P))
    with numpyro.plate("data", len(y), subsample_size=size) as index:
        zero = jnp.zeros(D)
        x = numpyro.sample("x", dist.MultivariateNormal(zero, jnp.eye(D)))
        rate = jnp.exp(x @ LOADING + offset)
        numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=y[index])


@pytest.fixture(scope="module")
def trained():
    """A guide after some steps: its parameters, and these with what is kept."""
    guide = ns.AutoSVAE(factors)
    svi = make_svi(factors, guide)
    state, update = svi.init(KEY, COUNTS), jax.jit(svi.update)
    for _ in range(10):
        state, _ = update(state, COUNTS)
    params = svi.get_params(state)
    return guide, params, {**params, **state.mutable_state}


def test_sweeps_start_where_those_of_the_last_step_ended(trained):
    guide, params, kept = trained
    anew = guide.convergence(params, COUNTS)["x"]
    further = guide.convergence(kept, COUNTS)["x"]
    assert further.sweeps < anew.sweeps / 2
    assert max(further.residual, anew.residual) <= 1


@pytest.mark.parametrize("data", [COUNTS, OTHER], ids=["the same", "others"])
def test_posteriors_are_the_same_as_without(trained, data):
    guide, params, kept = trained
    found, expected = (guide.posterior_local(p, data)["x"] for p in (kept, params))
    np.testing.assert_allclose(found.mean, expected.mean, atol=0.02)
    np.testing.assert_allclose(
        found.covariance_matrix, expected.covariance_matrix, atol=0.02
    )


def test_messages_that_are_of_no_use_are_left(trained):
    """Of one datum, whose bound is not finite there."""
    guide, params, kept = trained
    state = kept["auto_messages"]["kept"]
    potential = state.messages.potentials["x"]
    info = potential.info_vector.at[0].set(1e30)
    far = ns.GaussianPotential(info, potential.precision)
    messages = state.messages._replace(potentials={"x": far})
    spoilt = {"kept": state._replace(messages=messages)}
    found = guide.posterior_local(kept | {"auto_messages": spoilt}, COUNTS)["x"]
    expected = guide.posterior_local(params, COUNTS)["x"]
    np.testing.assert_allclose(found.mean, expected.mean, atol=0.02)


def test_data_of_another_size_start_anew(trained):
    guide, params, kept = trained
    found, expected = (
        guide.posterior_local(p, COUNTS[:3])["x"] for p in (kept, params)
    )
    np.testing.assert_array_equal(found.mean, expected.mean)


def test_nothing_is_kept_of_subsamples_or_beside_a_network():
    ones = jnp.ones((N, D))

    def recognition(y, size=None):
        return {"x": ns.GaussianPotential(ones, ones)}

    for guide, size in (
        (ns.AutoSVAE(factors), 3),
        (ns.AutoSVAE(factors, recognition), None),
    ):
        state = make_svi(factors, guide).init(KEY, COUNTS, size)
        assert state.mutable_state is None
