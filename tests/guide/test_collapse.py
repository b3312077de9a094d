# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A collapse is named by the report, and a good fit is not called one."""

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns
from numpyro_svae.training import skipped_steps
from tests.data import make_svi
from tests.models import lds_recognition, lds_svae

RNG = np.random.default_rng(0)
Y = jnp.asarray(2.0 * RNG.standard_normal((30, 2)), jnp.float32)


def vectors(y, loading, noise):
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        gaussian = dist.MultivariateNormal(x @ jnp.diag(loading), noise * jnp.eye(2))
        numpyro.sample("y", gaussian, obs=y)


def labels(y, distance, weights=(0.3, 0.7)):
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.array(weights)))
        loc = jnp.array([0.0, 1.0])[z][..., None] * distance
        numpyro.sample("y", dist.Normal(loc, 2.0).to_event(1), obs=y)


def report(model, *args, **options):
    guide = ns.AutoSVAE(model)
    svi = SVI(model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    params = svi.get_params(svi.init(random.PRNGKey(0), *args))
    options = {"num_samples": 100, "num_particles": 2, "show": False, **options}
    return ns.report(model, guide, params, *args, **options)


def test_vectors_without_information_are_named():
    assert report(vectors, Y, jnp.ones(2), 0.5).collapsed == {}
    found = report(vectors, Y, jnp.array([1.0, 1e-3]), 0.5)
    assert "some of its dimensions" in found.collapsed["x"]
    assert "[1] of 2" in str(found) and "collapsed: 'x'" in str(found)
    found = report(vectors, Y, jnp.ones(2), 1e6)
    assert "posterior is its prior" in found.collapsed["x"]


def test_labels_without_information_are_named():
    centres = jnp.array([4.0, 4.0])
    assert (
        report(labels, Y + 4.0 * (jnp.arange(30) % 2)[:, None], centres).collapsed == {}
    )
    assert "posterior is its prior" in report(labels, Y, 0 * centres).collapsed["z"]
    found = report(labels, Y, 40 * centres)
    assert "100.00% of all data are in state 0" in found.collapsed["z"]


def test_a_label_of_one_state_is_no_collapse():
    assert report(labels, Y, jnp.ones(2), (1.0,)).collapsed == {}


def test_steps_left_out_are_counted():
    losses = np.array([3.0, np.nan, 2.0, np.nan, 1.0, 1.0])
    found = report(vectors, Y, jnp.ones(2), 0.5, losses=losses)
    assert found.skipped == 2 and "steps left out" in str(found)
    state = ns.svae_optimizer().init({"w": jnp.ones(2)})._replace(skipped=jnp.array(7))
    assert skipped_steps(state) == 7
    assert report(vectors, Y, jnp.ones(2), 0.5, state=state).skipped == 7
    assert report(vectors, Y, jnp.ones(2), 0.5).skipped is None


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_paths_behind_a_network_are_looked_at_too(likelihood):
    """What is said of them is all that there is to look at."""
    y = jnp.round(jnp.abs(random.normal(random.PRNGKey(0), (4, 6, 3))))
    args, options = (y, jnp.ones((4, 5, 1))), {"likelihood": likelihood}

    def silent(y, actions, **kwargs):
        nothing = jnp.zeros((*y.shape[:2], 2))
        return {"x": ns.GaussianPotential(nothing, nothing)}

    for said, collapses in ((lds_recognition, False), (silent, True)):
        guide = ns.AutoSVAE(lds_svae, said)
        svi = make_svi(lds_svae, guide)
        params = svi.get_params(svi.init(random.PRNGKey(0), *args, **options))
        given = {**options, "num_samples": 100, "num_particles": 2, "show": False}
        found = ns.report(lds_svae, guide, params, *args, **given)
        assert set(found.collapsed) == ({"x"} if collapses else set())
