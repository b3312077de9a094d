# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Masks on global sites: refused in each call that may have another one."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask
import pytest

import numpyro_svae as ns
from tests.data import make_svi

Y = np.linspace(0.0, 1.0, 5)


def level(y, counts):
    with mask(mask=counts):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def whole(y, counts):
    with mask(mask=jnp.ones((), bool)), mask(mask=len(y) > 3):
        level(y, counts)


def test_a_mask_that_is_an_argument_is_refused_when_it_is_read():
    svi = make_svi(level, ns.AutoSVAE(level))
    with pytest.raises(ValueError, match=r"'mu': .*computed from arguments"):
        svi.init(random.key(0), Y, np.array(True))


def test_a_constant_mask_is_as_none_until_it_is_another_one():
    """Python's values are known in a step that is compiled, too."""
    svis = [make_svi(model, ns.AutoSVAE(model)) for model in (level, whole)]
    states = [svi.init(random.key(0), Y, True) for svi in svis]
    found = [svi.evaluate(s, Y, True) for svi, s in zip(svis, states)]
    np.testing.assert_allclose(*found)
    for update in svis[0].update, jax.jit(svis[0].update, static_argnums=2):
        with pytest.raises(ValueError, match="'mu': found a mask on a global site"):
            update(states[0], Y, False)
