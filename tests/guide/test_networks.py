# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Recognition and decoding by networks of any library, and guides made of parts."""

from functools import partial

import equinox as eqx
from flax import nnx
import flax.linen as nn
import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.module import eqx_module, flax_module, nnx_module
import numpyro.distributions as dist
from numpyro.infer.autoguide import AutoGuideList, AutoNormal
import pytest

import numpyro_svae as ns
from tests.data import make_svi, sequences, steps
from tests.models import chain_of, encoder, lds_globals, lds_svae


def nnx_network(name, inputs, outputs):
    return nnx_module(name, nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0)))


def linen_network(name, inputs, outputs):
    return flax_module(name, nn.Dense(outputs), input_shape=(1, inputs))


def equinox_network(name, inputs, outputs):
    linear = eqx.nn.Linear(inputs, outputs, key=random.PRNGKey(0))
    return jnp.vectorize(eqx_module(name, linear), signature="(i)->(o)")


@pytest.mark.parametrize(
    "network", [nnx_network, linen_network, equinox_network], ids=lambda n: n.__name__
)
def test_networks_of_any_library_are_trained(network):
    def model(y, actions):
        decode = network("decoder", 2, 3)
        lds_svae(y, actions, network=lambda x: decode(jnp.tanh(x)))

    def recognition(y, actions):
        loc, log_scale = jnp.split(network("encoder", 3, 4)(y), 2, -1)
        scale = jnp.exp(0.1 * log_scale)
        return {"x": ns.GaussianPotential.from_loc_scale(loc, scale)}

    args = sequences()
    svi = make_svi(model, ns.AutoSVAE(model, recognition), natural=0.3)
    start = svi.get_params(svi.init(random.PRNGKey(0), *args))
    end, losses = steps(svi, 30, *args)
    assert set(end) == {
        "decoder$params",
        "encoder$params",
        "init_auto_natural",
        "dynamics_auto_natural",
    }
    assert losses[-5:].mean() < losses[:5].mean()
    for name in end:
        moved = jax.tree.map(lambda a, b: jnp.any(a != b), start[name], end[name])
        assert all(jax.tree.leaves(moved)), name


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
@pytest.mark.parametrize("kind", ["point", "fixed"])
def test_likelihoods_and_globals_of_other_kinds(likelihood, kind):
    y, actions = sequences()
    model = partial(lds_svae, likelihood=likelihood, globals=kind)
    counts = jnp.clip(jnp.round(y + 0.5), 0, 1)
    svi = make_svi(model, ns.AutoSVAE(model, plain_recognition))
    params, losses = steps(svi, 30, counts, actions)
    assert np.all(np.isfinite(losses))
    assert losses[-5:].mean() < losses[:5].mean()
    assert ("transition" in params) is (kind == "point")
    if kind == "point":
        assert not np.allclose(params["transition"], 0.9 * np.eye(2, 3))


def plain_recognition(y=None, actions=None):
    return {"x": encoder(y)}


def test_image_valued_observations():
    """A likelihood of any event shape."""
    y, actions = sequences()
    images = y[..., None] * jnp.ones(2)

    def model(y, actions):
        with numpyro.plate("sequences", len(y)) as index:
            start, step = lds_globals("fixed", 1)
            x = numpyro.sample("x", chain_of(start, step, actions, index, 5))
            loc = jnp.tanh(x)[..., :1, None] * jnp.ones((3, 2))
            numpyro.sample("y", dist.Normal(loc, 0.5).to_event(3), obs=y)

    def recognition(y, actions):
        return {"x": encoder(y[..., 0])}

    svi = make_svi(model, ns.AutoSVAE(model, recognition))
    _, losses = steps(svi, 5, images, actions)
    assert np.all(np.isfinite(losses))


def noisy_lds(y, actions):
    """Model 5 with a noise scale whose prior is not conjugate."""
    noise = numpyro.sample("noise", dist.LogNormal(0.0, 1.0))
    start, step = lds_globals("bayes", 1)
    with numpyro.plate("sequences", len(y)) as index:
        x = numpyro.sample("x", chain_of(start, step, actions, index, y.shape[1]))
        output = jnp.tanh(x) @ jnp.array([[1.0, -1.0, 0.5], [0.3, 1.0, 1.0]])
        numpyro.sample("y", dist.Normal(output, noise).to_event(2), obs=y)


def noise_guide(y, actions=None):
    loc = numpyro.param("noise_loc", jnp.asarray(0.0))
    scale = numpyro.param(
        "noise_scale", jnp.asarray(0.1), constraint=dist.constraints.positive
    )
    return {"noise": numpyro.sample("noise", dist.LogNormal(loc, scale))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["auto", "by hand"])
def test_a_list_of_guides_shares_the_sites(kind):
    seeded = handlers.seed(noisy_lds, 0)
    guide = AutoGuideList(noisy_lds)
    conjugate = handlers.block(seeded, hide=["noise"])
    guide.append(ns.AutoSVAE(conjugate, plain_recognition))
    if kind == "auto":
        guide.append(AutoNormal(handlers.block(seeded, expose=["noise"])))
    else:
        guide.append(noise_guide)
    svi = make_svi(noisy_lds, guide, natural=0.3)
    params, losses = steps(svi, 60, *sequences())
    assert np.all(np.isfinite(losses))
    assert losses[-10:].mean() < losses[:10].mean() - 1.0
    noise = "noise_loc" if kind == "by hand" else "noise_auto_loc"
    assert params[noise] != 0.0
    assert {"init_auto_natural", "dynamics_auto_natural"} < set(params)


def noisy_mixture(y):
    """A mixture SVAE whose noise scale has a prior that is not conjugate."""
    noise = numpyro.sample("noise", dist.LogNormal(0.0, 1.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    loc = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], jnp.eye(2)))
        output = jnp.sin(x @ jnp.ones((2, 3)))
        numpyro.sample("y", dist.Normal(output, noise).to_event(1), obs=y)


def test_a_discrete_model_takes_a_part_written_by_hand():
    """NumPyro's AutoGuideList refuses discrete sites; a function of parts does not."""
    conjugate = handlers.block(handlers.seed(noisy_mixture, 0), hide=["noise"])
    part = ns.AutoSVAE(conjugate, lambda y: {"x": encoder(y)})

    def guide(y):
        return {**part(y), **noise_guide(y)}

    params, losses = steps(make_svi(noisy_mixture, guide), 60, sequences()[0][:, 0])
    assert np.all(np.isfinite(losses))
    assert losses[-10:].mean() < losses[:10].mean()
    assert "weights_auto_natural" in params and params["noise_loc"] != 0.0
