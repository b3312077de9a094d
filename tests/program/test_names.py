# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A name that is that of two things is refused, by name."""

import jax.numpy as jnp
import numpyro
from numpyro import deterministic, param, plate, sample
from numpyro.contrib.control_flow import scan
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


def scanned(y, *, name="data", outer="other"):
    """A path by ``scan``, whose body has a plate."""
    mu = sample("mu", dist.Normal())
    with plate(outer, 5):
        sample("rate", dist.Gamma(1.0))
    with plate("data", 2):
        first = sample("first", dist.Normal(jnp.zeros(1), 1.0).to_event(1))

    def step(x, y):
        with plate(name, 2):
            x = sample("x", dist.Normal(x, 1.0).to_event(1))
            sample("y", dist.Normal(x + mu, 1.0).to_event(1), obs=y)
        return x, None

    scan(step, first, y[..., None, None])


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


def test_what_the_guide_makes_for_itself():
    def model(y, own="mu_auto_natural"):
        mu = sample("mu", dist.Normal())
        offset = param(own, jnp.zeros(()))
        with plate("data", 2):
            sample("y", dist.Normal(mu + offset, 1.0), obs=y)

    found = "'mu_auto_natural': found a parameter, and the guide.*prefix="
    with numpyro.handlers.seed(rng_seed=0), pytest.raises(ValueError, match=found):
        ns.AutoSVAE(model)(Y)
    with numpyro.handlers.seed(rng_seed=0):
        ns.AutoSVAE(model, prefix="mine")(Y)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"name": "mu"}, "'mu': found a sample site and a plate"),
        ({"outer": "steps", "name": "steps"}, "'steps': found sizes 5 and 2"),
    ],
)
def test_plates_of_the_body_of_a_scan(options, found):
    guide = ns.AutoSVAE(scanned)
    with numpyro.handlers.seed(rng_seed=0), pytest.raises(ValueError, match=found):
        guide(Y, **options)
