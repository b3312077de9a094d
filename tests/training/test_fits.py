# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A fit on disk is used by another process, without data and without SVI.init."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.training import load_fit, save_fit, save_state
from tests.guide.test_mutable_state import fit
from tests.training.conftest import problem


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_new_guide_has_the_posteriors_of_a_file(small, tmp_path):
    state = small.svi.init(random.PRNGKey(3), small.y)
    path, params = tmp_path / "fit.npz", small.svi.get_params(state)
    save_fit(path, small.guide, params)
    guide = problem().guide
    found = load_fit(path, guide)
    same(found, params)
    ours, theirs = (g.get_posterior(params) for g in (guide, small.guide))
    assert ours.keys() == theirs.keys()
    same(*(g.posterior_local(params, small.y) for g in (guide, small.guide)))


def test_state_of_networks_is_in_the_file(tmp_path):
    guide, params, both = fit(decode=False)
    path = tmp_path / "fit.npz"
    with pytest.raises(ValueError, match=r"params: found no mutable state \['encoder"):
        save_fit(path, guide, params)
    save_fit(path, guide, both)
    found = load_fit(path, ns.AutoSVAE(guide.model, guide.recognition))
    same(found, both)


def chosen(y, how, key, *, weights=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    scale = {"wide": 2.0}[how["noise"]] + 0 * random.normal(key)
    with numpyro.plate("data", len(y[0])), numpyro.handlers.mask(mask=weights):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y[0])


def test_arguments_may_be_nested_and_plain(tmp_path):
    args = (jnp.arange(3.0), None), {"noise": "wide"}, random.key(0)
    guide = ns.AutoSVAE(chosen)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as messages:
        guide(*args, weights=np.ones(3, bool))
    params = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    save_fit(tmp_path / "fit.npz", guide, params)
    same(load_fit(tmp_path / "fit.npz", ns.AutoSVAE(chosen)), params)


def test_what_a_file_cannot_hold_is_said(small, tmp_path):
    path = tmp_path / "fit.npz"
    with pytest.raises(RuntimeError, match="has not read its model yet"):
        save_fit(path, ns.AutoSVAE(chosen), {})

    def model(f):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=f(1.0))

    guide = ns.AutoSVAE(model)
    with numpyro.handlers.seed(rng_seed=0):
        guide(jnp.sin)
    with pytest.raises(ValueError, match=r"arguments\[0\]\[0\]: found .*cannot hold"):
        save_fit(path, guide, {})
    save_state(path, {})
    with pytest.raises(ValueError, match=r"found no fit.*training\.save_fit"):
        load_fit(path, guide)
    save_fit(path, small.guide, {})
    with pytest.raises(ValueError, match=r"\['encoder_first'\]' found nothing; accep"):
        load_fit(path, problem().guide)
