# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Ascent that ends before it has converged is said, once, wherever it happens."""

import warnings

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns
from tests.data import clusters, sequences
from tests.models import known_mixture
from tests.switching import known_slds

Y = clusters(9)[0]
MESSAGE = "ended after 2 sweeps.*residuals of .* at 'x', .* at 'z'.*max_sweeps"


def make(max_sweeps):
    fixed_point = ns.FixedPoint(max_sweeps=max_sweeps, anneal=0)
    guide = ns.AutoSVAE(known_mixture, mean_field=True, fixed_point=fixed_point)
    return guide, SVI(known_mixture, guide, ns.svae_optimizer(), ns.SVAE_ELBO())


def losses(svi, key):
    def update(state, _):
        return svi.update(state, Y)

    return jax.lax.scan(update, svi.init(key, Y), length=3)[1]


def test_it_is_said_once_in_training_under_all_transformations():
    guide, svi = make(2)
    guide._setup_prototype(Y)
    keys = random.split(random.PRNGKey(0), 2)
    with pytest.warns(RuntimeWarning, match=MESSAGE) as said:
        jax.block_until_ready(jax.jit(jax.vmap(lambda k: losses(svi, k)))(keys))
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guide.posterior_local({}, Y)


def test_it_is_said_of_posteriors():
    guide, _ = make(2)
    with pytest.warns(RuntimeWarning, match=MESSAGE):
        guide.posterior_local({}, Y)
    guide, _ = make(2)
    guide._setup_prototype(Y)
    with pytest.warns(RuntimeWarning, match=MESSAGE):
        jax.block_until_ready(jax.jit(lambda y: guide.posterior_local({}, y))(Y))


def test_what_has_converged_is_not_said():
    _, svi = make(100)
    assert np.all(np.isfinite(losses(svi, random.PRNGKey(0))))


def test_few_sweeps_beside_a_network_are_said_of_forecasts_alone():
    def recognition(y):
        return {"x": ns.GaussianPotential.from_loc_scale(y, jnp.ones(2))}

    y = sequences(count=2, steps=4, outputs=2)[0]
    fixed_point = ns.FixedPoint(max_sweeps=1, anneal=0)
    guide = ns.AutoSVAE(known_slds, recognition, fixed_point=fixed_point)
    guide.posterior_local({}, y)  # a warning would be an error
    given = known_slds, guide, {}, random.PRNGKey(0), y
    with pytest.warns(RuntimeWarning, match="after 1 sweeps and has not converged"):
        ns.forecast(*given, horizon=1, num_samples=2)
