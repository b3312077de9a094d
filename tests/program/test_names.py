# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A name that is that of two things is refused, by name."""

import jax.numpy as jnp
import numpyro
from numpyro import deterministic, param, plate, sample
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns

Y = jnp.zeros(2)


def model(y, *, mean="mu", data="data", extra=lambda: None):
    mu = sample(mean, dist.Normal())
    extra()
    with plate(data, 2):
        x = sample("x", dist.Normal(mu, 1.0))
        sample("y", dist.StudentT(4.0, x), obs=y)


def recognition(y, **options):
    param("data", jnp.ones(()))
    return {}


@pytest.mark.parametrize(
    ("options", "recognise", "found"),
    [
        ({"data": "mu"}, None, "'mu': found a sample site and a plate"),
        ({"data": "x"}, None, "'x': found a plate and a sample site"),
        ({"extra": lambda: param("data", Y)}, None, "a parameter and a plate"),
        ({"extra": lambda: param("mu", Y)}, None, "a sample site and a parameter"),
        ({"extra": lambda: deterministic("data", Y)}, None, "a deterministic site and"),
        ({}, recognition, "'data': found a plate and a parameter.*'data_param' for"),
    ],
)
def test_two_things_of_one_name(options, recognise, found):
    guide = ns.AutoSVAE(model, recognise)
    with numpyro.handlers.seed(rng_seed=0), pytest.raises(ValueError, match=found):
        guide(Y, **options)
