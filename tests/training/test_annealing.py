# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Divergences that are weighed by a schedule."""

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
from numpyro_svae.training import anneal_kl
from tests.training.conftest import factor_svae

RISING = optax.linear_schedule(0.2, 1.0, 4)


def loss_at(step, guide, params, model, *args):
    """The loss at a step, with its mutable state afterwards."""
    values = {**params, "kl_annealing": {"step": step}}
    key = random.PRNGKey(5)
    return ns.SVAE_ELBO().loss_with_mutable_state(key, values, model, guide, *args)


@pytest.fixture(scope="module")
def annealed(small):
    """A run of a few steps, and how often the model was traced in it."""
    with jax.enable_x64(False):
        count = 0

        def model(y):
            nonlocal count
            count += 1
            factor_svae(y)

        guide, y = anneal_kl(small.guide, RISING), small.y[:10]
        svi = SVI(model, guide, ns.svae_optimizer(optax.sgd(0.0), 0.2), ns.SVAE_ELBO())
        state, update = svi.init(random.PRNGKey(1), y), jax.jit(svi.update)
        counts = []
        for _ in range(6):
            state, _ = update(state, y)
            counts.append(count)
        return svi, state, counts


def test_the_schedule_weighs_the_divergences(small, annealed):
    svi, state, _ = annealed
    y, params = small.y[:10], svi.get_params(state)
    args = params, factor_svae, small.guide, y
    terms = ns.SVAE_ELBO(sum_sites=False).loss(random.PRNGKey(5), *args)
    guide = anneal_kl(small.guide, RISING)
    at = jax.jit(lambda step: loss_at(step, guide, params, factor_svae, y))
    kl = sum(term for name, term in terms.items() if name != "y")
    for step, weight in ((0, 0.2), (2, 0.6), (9, 1.0)):
        found = at(step)
        np.testing.assert_allclose(found["loss"], terms["y"] + weight * kl, rtol=1e-5)
        assert found["mutable_state"]["kl_annealing"]["step"] == step + 1


def test_nothing_is_traced_again(annealed):
    _, state, counts = annealed
    assert len(set(counts)) == 1
    assert state.mutable_state["kl_annealing"]["step"] == 6


def test_only_training_is_annealed(small, annealed):
    svi, state, _ = annealed
    _, key = random.split(state.rng_key)
    params, y = svi.get_params(state), small.y[:10]
    expected = ns.SVAE_ELBO().loss(key, params, factor_svae, small.guide, y)
    np.testing.assert_allclose(svi.evaluate(state, y), expected, rtol=1e-6)


def test_divergences_without_a_closed_form_are_weighed_too():
    def model():
        x = numpyro.sample("x", dist.Laplace(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=2.0)

    def guide():
        numpyro.sample("x", dist.Normal(numpyro.param("loc", 0.5), 1.0))

    found = loss_at(jnp.array(2), anneal_kl(guide, RISING), {"loc": 0.5}, model)
    _, guide_key = random.split(random.PRNGKey(5))
    seeded = numpyro.handlers.seed(guide, guide_key)
    value = numpyro.handlers.trace(seeded).get_trace()["x"]["value"]
    kl = dist.Normal(0.5, 1.0).log_prob(value) - dist.Laplace(0.0, 1.0).log_prob(value)
    expected = 0.6 * kl - dist.Normal(value, 1.0).log_prob(2.0)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)
