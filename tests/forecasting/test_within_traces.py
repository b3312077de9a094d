# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What is asked of a fit within a program of the caller's that JAX traces."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.families import GammaNatural
from tests.models import known_lds

KEY = random.PRNGKey(3)
Y = random.normal(random.PRNGKey(4), (2, 4, 3))
ACTIONS = jnp.ones((2, 3, 1))


def test_forecasts_and_scores_are_the_same_within_jit():
    guide = ns.AutoSVAE(known_lds)
    given = {"future_inputs": {"actions": jnp.ones((2, 2, 1))}, "num_samples": 3}

    def look(y, given):
        fit = known_lds, guide, {}, KEY, y, ACTIONS
        paths = ns.forecast(*fit, horizon=2, **given)
        return paths["y"], ns.log_score(*fit, future={"y": y[:, :2]}, **given)["y"]

    found = jax.jit(lambda y: look(y, given))(Y)
    for alone, within in zip(look(Y, given), found, strict=True):
        np.testing.assert_allclose(within, alone, rtol=1e-4)
    without = jax.jit(lambda y: look(y, {"num_samples": 3}))
    with pytest.raises(Exception, match="'actions': the model depends on its future"):
        jax.block_until_ready(without(Y))


@pytest.mark.parametrize("name", ["filter", "smooth", "report", "to_arviz"])
def test_what_is_made_for_python_is_refused(name):
    guide = ns.AutoSVAE(known_lds)
    transform = jax.vmap if name == "filter" else jax.jit
    with pytest.raises(TypeError, match=rf"{name}: found a jax\.jit.* Within them: \w"):
        transform(lambda y: getattr(ns, name)(known_lds, guide, {}, y))(Y)


def test_batches_of_what_a_model_subsamples_are_the_same_within_jit():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
        with numpyro.plate("data", len(y), subsample_size=2) as index:
            numpyro.sample("y", dist.Exponential(rate), obs=y[index])

    guide = ns.AutoSVAE(model)
    params = {"rate_auto_natural": GammaNatural(3.0, 3.0)}

    def look(y):
        return ns.log_likelihood(model, guide, params, KEY, y, num_samples=2).value

    y = jnp.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(jax.jit(look)(y), look(y), rtol=1e-5)
