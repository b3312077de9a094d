# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Running statistics of networks: never those of the start by mistake."""

from flax import nnx
import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.module import nnx_module
import numpyro.distributions as dist
from numpyro.infer import Predictive
from numpyro.primitives import mutable
import pytest

import numpyro_svae as ns
from tests.data import make_svi

Y = 40.0 + 7.0 * random.normal(random.PRNGKey(0), (20, 2))


class Net(nnx.Module):
    """Normalises what it sees."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, momentum=0.5, rngs=rngs)
        self.out = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x, train):
        return self.out(self.norm(x, use_running_average=not train))


def model(y, train=True, decode=False):
    net = nnx_module("decoder", Net(nnx.Rngs(1))) if decode else (lambda x, train: x)
    with numpyro.plate("data", len(Y)):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        loc = 40.0 + 7.0 * jnp.tanh(net(x, train))
        numpyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)


def recognition(y, train=True, decode=False):
    loc = Y if decode else nnx_module("encoder", Net(nnx.Rngs(0)))(y, train)
    return {"x": ns.GaussianPotential.from_loc_scale(loc / 40.0, 0.3)}


def fit(decode):
    with jax.enable_x64(False):
        guide = ns.AutoSVAE(model, recognition)
        svi = make_svi(model, guide)
        run = {"progress_bar": False, "decode": decode}
        result = svi.run(random.PRNGKey(0), 8, Y, **run)
    return guide, result.params, {**result.params, **result.state.mutable_state}


@pytest.fixture(scope="module")
def of_encoder():
    return fit(decode=False)


def test_statistics_that_matter_are_asked_for(of_encoder):
    guide, params, full = of_encoder
    trained = guide.posterior_local(params, Y)["x"].mean  # those of the batch
    found = guide.posterior_local(full, Y, train=False)["x"].mean
    np.testing.assert_allclose(found, trained, atol=0.1)
    asked = r"'encoder\$state'.*result\.state\.mutable_state"
    for ask in (
        lambda p: guide.posterior_local(p, Y, train=False),
        lambda p: guide.sample_posterior(random.PRNGKey(0), p, Y, train=False),
        lambda p: Predictive(guide, params=p, num_samples=2)(
            random.PRNGKey(0), Y, train=False
        ),
        lambda p: ns.smooth(model, guide, p, Y, train=False),
        lambda p: ns.impute(model, guide, p, random.PRNGKey(0), Y, train=False),
    ):
        with pytest.raises(ValueError, match=asked):
            ask(params)
    ns.impute(model, guide, full, random.PRNGKey(0), Y, train=False, num_samples=2)


def test_the_state_of_the_decoder_is_asked_for_too():
    guide, params, full = fit(decode=True)
    guide.posterior_local(params, Y, train=False, decode=True)  # has no part in it
    with pytest.raises(ValueError, match=r"'decoder\$state'"):
        ns.to_arviz(model, guide, params, Y, train=False, decode=True)
    ns.to_arviz(model, guide, full, Y, train=False, decode=True, num_samples=3)


def test_statistics_beside_a_conjugate_site_are_those_of_training():
    """An offset that a network computes in the model, and the evidence beside it."""
    inputs = 5.0 + 3.0 * np.random.default_rng(0).standard_normal((20, 2))

    def beside(y, train=True, offset=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        if offset is None:
            offset = nnx_module("net", Net(nnx.Rngs(0)))(inputs, train)
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(mu + offset, 1.0).to_event(1), obs=y)

    y, guide = random.normal(random.PRNGKey(1), (20, 2)), ns.AutoSVAE(beside)
    svi = make_svi(beside, guide)
    result = svi.run(random.PRNGKey(0), 3, y, progress_bar=False)
    full = {**result.params, **result.state.mutable_state}
    with pytest.raises(ValueError, match=r"'net\$state'"):
        guide.posterior_local(result.params, y, train=False)
    before = jax.tree.map(np.asarray, full)
    call = {"train": False}
    loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), full, beside, guide, y, **call)
    with handlers.block(), handlers.substitute(data=full):
        offset = nnx_module("net", Net(nnx.Rngs(0)))(inputs, False)
    cov = 9.0 * jnp.ones((20, 20)) + jnp.eye(20)
    evidence = dist.MultivariateNormal(jnp.zeros(20), cov).log_prob((y - offset).T)
    np.testing.assert_allclose(loss, -evidence.sum(), rtol=1e-5)
    guide.posterior_local(full, y)  # in training, where a network writes its state
    jax.tree.map(np.testing.assert_array_equal, full, before)


def test_a_start_may_have_parameters_alone():
    guide = ns.AutoSVAE(model, recognition)
    svi = make_svi(model, guide)
    given = svi.get_params(svi.init(random.PRNGKey(0), Y))
    state = svi.init(random.PRNGKey(0), Y, train=False, init_params=given)
    assert set(state.mutable_state) == {"encoder$state"}


def test_statistics_behind_a_mixture_are_those_of_all_its_states():
    """Known labels, so that the mean of what the network sees is known."""
    labels = np.arange(20) % 4 // 3
    centres = jnp.array([[1.0, 1.0], [-2.0, 5.0]])

    def mixture(y, z):
        with numpyro.plate("data", 20):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
            x = numpyro.sample("x", dist.MultivariateNormal(centres[z], 1e-6 * eye))
            seen = mutable("seen", {"mean": jnp.zeros(2), "count": jnp.zeros((), int)})
            seen["mean"], seen["count"] = jnp.mean(x, 0), seen["count"] + 1
            numpyro.sample("y", dist.Normal(jnp.sin(x), 1.0).to_event(1), obs=y)

    def labelled(y, z):
        nothing = ns.GaussianPotential(jnp.zeros((20, 2)), jnp.zeros((20, 2)))
        return {"z": ns.CategoricalPotential.from_labels(z, 2), "x": nothing}

    eye = jnp.eye(2)
    guide = ns.AutoSVAE(mixture, labelled)
    args = random.PRNGKey(0), {}, mixture, guide, jnp.sin(centres[labels]), labels
    for count in (1, 3):
        elbo = ns.SVAE_ELBO(num_particles=count)
        state = elbo.loss_with_mutable_state(*args)["mutable_state"]["seen"]
        expected = 0.75 * centres[0] + 0.25 * centres[1]
        np.testing.assert_allclose(state["mean"], expected, atol=5e-3)
        assert state["count"] == 1
