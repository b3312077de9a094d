# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Branches, and handlers that reach into loops: refused with what to write."""

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import cond, scan
import numpyro.distributions as dist
from numpyro.handlers import condition, seed, trace
import pytest

import numpyro_svae as ns

Y = np.random.default_rng(0).standard_normal((4, 1)).astype(np.float32)


def branches(y):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    first, second = (lambda _, m=m: numpyro.sample("x", dist.Normal(m)) for m in (0, 1))
    x = cond(z == 1, first, second, None)
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y[0, 0])


def steps(y):
    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1))
        return x, None

    first = numpyro.sample("first", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
    scan(step, first, None, length=len(y))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (branches, r"control_flow\.cond.* `if` .* jnp\.where\(z == 1, a, b\)"),
        (
            condition(steps, {"y": jnp.asarray(Y)}),
            r"'y': found a handler .*obs= in the body",
        ),
    ],
)
def test_what_is_refused_says_what_to_write(model, text):
    with pytest.raises(ValueError, match=text), trace(), seed(rng_seed=0):
        ns.AutoSVAE(model)(Y)
