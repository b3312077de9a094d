# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Random keys in the wrong place are said so."""

from jax import random
import jax.numpy as jnp
import pytest

import numpyro_svae as ns
from tests.models import known_lds

Y = jnp.zeros((2, 4, 3))


@pytest.mark.parametrize("key", [random.key(0), random.PRNGKey(0)], ids=["new", "raw"])
def test_a_key_where_the_model_has_data(key):
    fit = known_lds, ns.AutoSVAE(known_lds), {}, key, Y
    for function in ns.to_arviz, ns.report, ns.smooth, ns.filter:
        with pytest.raises(TypeError, match=r"'y' of the model: found a random key"):
            function(*fit)


def test_data_where_a_function_has_its_key():
    guide = ns.AutoSVAE(known_lds)
    with pytest.raises(TypeError, match=r"rng_key: found an array of float32 of shape"):
        ns.log_likelihood(known_lds, guide, {}, Y)
    with pytest.raises(
        TypeError, match=r"rng_key: found dict.*rng_key, params, \*args"
    ):
        guide.sample_posterior({}, random.key(0), Y)
