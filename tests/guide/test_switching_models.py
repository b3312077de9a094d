# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Hidden Markov and switching models through stock SVI and Predictive."""

from functools import partial

from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Predictive
import pytest

import numpyro_svae as ns
from tests.data import make_svi, sequences, steps
from tests.models import vector_prior
from tests.switching import (
    autoregressive_hmm,
    chain_priors,
    hmm,
    hmm_svae,
    recognition,
    slds_svae,
)

Y, ACTIONS = sequences(count=4, steps=6)
MODELS = {
    "hmm": (hmm, None, (Y[..., :2],)),
    "autoregressive": (autoregressive_hmm, None, (Y[..., :2], ACTIONS)),
    "hmm-svae": (hmm_svae, recognition, (Y,)),
    "slds-svae": (slds_svae, recognition, (Y, ACTIONS)),
}


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    """A model, its guide, and what a few steps have made of them."""
    model, recognise, args = MODELS[request.param]
    guide = ns.AutoSVAE(model, recognise, num_starts=1)  # far from the end
    svi = make_svi(model, guide, natural=0.5)
    params, losses = steps(svi, 25, *args)
    return model, guide, args, params, losses


def test_losses_fall(fitted):
    losses = np.asarray(fitted[-1])
    assert np.all(np.isfinite(losses))
    assert losses[-5:].mean() < losses[:3].mean()


def test_states_and_paths_are_sampled_together(fitted):
    _, guide, args, params, _ = fitted
    draws = guide.sample_posterior(random.PRNGKey(0), params, *args, sample_shape=(3,))
    assert draws["z"].shape == (3, 4, 6)
    assert set(np.unique(draws["z"])) <= {0, 1}
    local = guide.posterior_local(params, *args)
    np.testing.assert_allclose(local["z"].probs.sum(-1), 1.0, rtol=1e-5)
    if "x" in draws:
        assert draws["x"].shape == (3, 4, 6, 2)
        assert np.all(np.isfinite(draws["x"]))


@pytest.mark.parametrize(
    "fitted", ["hmm", "hmm-svae", "slds-svae"], indirect=True, scope="module"
)
def test_new_data_are_predicted(fitted):
    model, guide, args, params, _ = fitted
    predict = Predictive(model, guide=guide, params=params, num_samples=5)
    draws = predict(random.PRNGKey(1), *(None, *args[1:]), shape=(4, 6))
    assert draws["y"].shape[:3] == (5, 4, 6)
    assert np.all(np.isfinite(draws["y"]))


@pytest.mark.slow
@pytest.mark.parametrize("model", [hmm_svae, slds_svae])
def test_minibatches_of_sequences(model):
    model = partial(model, subsample=2)
    guide = ns.AutoSVAE(model, partial(recognition, subsample=2))
    _, losses = steps(make_svi(model, guide, natural=0.2), 5, Y)
    assert np.all(np.isfinite(losses))


def test_conjugate_hmm_never_gets_worse(x64):
    """Every full step is an exact coordinate update of all global blocks."""
    y, _ = sequences(count=5, steps=7, outputs=2)
    guide = ns.AutoSVAE(hmm, num_starts=1)
    _, losses = steps(make_svi(hmm, guide, natural=1.0), 30, y)
    assert np.all(np.diff(losses) < 1e-9)
    assert losses[0] - losses[-1] > 1.0


def test_an_observed_chain_is_counted(x64):
    """One step gives the textbook posterior of the rows of a transition."""
    states = jnp.array([[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]])

    def model(states):
        initial, rows = chain_priors(2, sticky=0.5)
        with numpyro.plate("sequences", len(states)):
            chain = ns.DiscreteMarkovChain(initial, rows, 5)
            numpyro.sample("z", chain, obs=states)

    guide = ns.AutoSVAE(model, num_starts=1)
    params, _ = steps(make_svi(model, guide, natural=1.0), 1, states)
    posterior = guide.get_posterior(params)
    np.testing.assert_allclose(posterior["initial"].concentration, [2.0, 2.0])
    pairs = np.array([[1.0, 1.0], [2.0, 4.0]])
    prior = 1.0 + 0.5 * np.eye(2)
    np.testing.assert_allclose(posterior["rows"].concentration, prior + pairs)


def semi_supervised(y, labels, known):
    """A mixture some of whose labels are known."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    loc, cov = vector_prior("components", 2, 2)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels, obs_mask=known)
        numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=y)


def spoken_labels(y, labels, known):
    """The same labels as a potential."""
    with numpyro.plate("data", len(y)):
        return {"z": ns.CategoricalPotential.from_labels(labels, 2, known)}


def latent_labels(y, labels, known):
    """The mixture with latent labels only."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    loc, cov = vector_prior("components", 2, 2)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=y)


def test_labels_by_mask_and_by_potential_are_the_same(x64):
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.standard_normal((8, 2)))
    labels, known = jnp.arange(8) % 2, jnp.arange(8) < 5
    masked = ns.AutoSVAE(semi_supervised, num_starts=1)
    spoken = ns.AutoSVAE(latent_labels, spoken_labels)
    eye = jnp.eye(2)
    loc = jnp.array([[0.5, 0.0], [-0.5, 0.0]])
    start = {
        "weights": dist.Dirichlet(jnp.array([3.0, 5.0])),
        "components": ns.NormalInverseWishart(loc, 1.0, 5.0, 2.0 * eye),
    }
    results = []
    for model, guide in ((semi_supervised, masked), (latent_labels, spoken)):
        guide.init.update(start)
        svi = make_svi(model, guide, natural=1.0)
        params, losses = steps(svi, 12, y, labels, known)
        results.append((losses[-1], guide.posterior_local(params, y, labels, known)))
    (first, unseen), (second, given) = results
    np.testing.assert_allclose(first, second, rtol=1e-6)
    probs = unseen["z"].probs
    np.testing.assert_allclose(probs, given["z"].probs, atol=1e-5)
    np.testing.assert_array_equal(np.argmax(probs[:5], -1), labels[:5])
    assert probs[5:].min() > 0.0
