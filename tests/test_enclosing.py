# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Optimisers that SVI is given in the place of, around or within svae_optimizer."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns

Y = 2.0 + random.normal(random.key(0), (20,))
ours = ns.svae_optimizer


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    scale = numpyro.param("scale", 1.5, constraint=dist.constraints.positive)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def svi_of(optimizer):
    return SVI(model, ns.AutoSVAE(model), optimizer, ns.SVAE_ELBO())


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [
        (optax.adam(optax.linear_schedule(0.0, 0.1, 5)), "turn"),
        (optax.MultiSteps(optax.adam(0.1), 4).gradient_transformation(), "turn"),
        (optax.chain(optax.centralize(), ours()), "turn"),
        (optax.chain(ours(), optax.add_noise(0.1, 0.5, 0)), "no gradient"),
        (optax.chain(ours(), optax.add_decayed_weights(0.1)), "no gradient"),
        (optax.chain(ours(), optax.trace(0.9)), "longer"),
        (optax.chain(ours(), optax.apply_every(4)), "longer"),
        (numpyro.optim.Minimize(), "search"),
    ],
)
def test_what_is_no_natural_gradient_step_is_refused(optimizer, what):
    with pytest.raises(TypeError, match=f"'mu'.* {what}.*svae_optimizer"):
        svi_of(optimizer).init(random.key(0), Y)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.clip_by_global_norm(1.0), ours()),
        optax.chain(optax.zero_nans(), ours(), optax.scale(0.5)),
        optax.MultiSteps(ours(natural=1.0), 4).gradient_transformation(),
    ],
)
def test_what_keeps_natural_steps_is_taken_and_says_nothing(optimizer):
    svi_of(optimizer).init(random.key(0), Y)


def test_a_neural_optimiser_that_takes_a_step_in_four_leaves_natural_ones_alone():
    neural = optax.MultiSteps(optax.sgd(0.01), 4)
    result = svi_of(ours(neural, 1.0)).run(random.key(0), 3, Y, progress_bar=False)
    np.testing.assert_allclose(result.params["scale"], 1.5, rtol=1e-6)
    precision = 1 / 10.0**2 + len(Y) / 1.5**2
    found = result.params["mu_auto_natural"].precision
    np.testing.assert_allclose(jnp.ravel(found), precision, rtol=1e-5)


@pytest.mark.parametrize(
    "neural",
    [
        optax.lbfgs(),
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
        optax.masked(optax.adam(0.1), {"scale": True}),
    ],
    ids=["lbfgs", "sam", "masked"],
)
def test_a_neural_optimiser_that_wants_what_svi_has_not_is_named(neural):
    with pytest.raises(TypeError, match=r"`neural` ended.*`value_fn`.*linesearch=None"):
        svi_of(ours(neural)).run(random.key(0), 1, Y, progress_bar=False)


@pytest.mark.parametrize(
    "neural", [optax.contrib.reduce_on_plateau(), optax.polyak_sgd()]
)
def test_a_neural_optimiser_is_handed_the_loss(neural):
    svi_of(ours(neural)).run(random.key(0), 2, Y, progress_bar=False)


@pytest.mark.parametrize(
    ("loss", "forward", "text"),
    [
        (
            ns.SVAE_ELBO(sum_sites=False),
            False,
            r"sum_sites=False.*SVAE_ELBO\(\) to tra",
        ),
        (ns.SVAE_ELBO(), True, "forward_mode_differentiation=True.*the default"),
    ],
)
def test_a_step_that_cannot_differentiate_the_loss_is_named(loss, forward, text):
    svi = SVI(model, ns.AutoSVAE(model), ours(), loss)
    options = {"progress_bar": False, "forward_mode_differentiation": forward}
    with pytest.raises(TypeError, match=text):
        svi.run(random.key(0), 1, Y, **options)


def test_training_goes_on_in_the_precision_that_it_began_in(x64):
    """A prior in float32 begins in float64, as everything beside it."""

    def narrow(y):
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones(2, jnp.float32)))
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(probs))
            numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)

    svi = SVI(narrow, ns.AutoSVAE(narrow), ours(), ns.SVAE_ELBO())
    state = svi.init(random.key(0), Y)
    assert svi.get_params(state)["probs_auto_natural"].concentration.dtype == float
    old = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == float else x, state
    )
    with pytest.raises(TypeError, match=r"'probs_auto.* in float32, while .*float64"):
        svi.update(old, Y)
