# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Data of probability zero: an infinite loss, and a warning that names the entry."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns

LEFT_RIGHT = jnp.array([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]])
SEEN = jnp.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.2, 0.8]])


def chain(y):
    with numpyro.plate("sequences", len(y)):
        fn = ns.DiscreteMarkovChain(jnp.array([1.0, 0.0, 0.0]), LEFT_RIGHT, num_steps=4)
        z = numpyro.sample("z", fn)
        numpyro.sample("y", dist.Categorical(SEEN[z]).to_event(1), obs=y)


def labels(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        rate = jnp.array([0.0, 0.0])[z]
        numpyro.sample("y", dist.Poisson(rate), obs=jnp.sum(y == 0, -1) - 1)


def vectors(y):
    """A label that picks vectors, and an observation that rules all of them out."""
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5, 0.0])))
        loc = jnp.array([[1.0], [-1.0], [0.0]])
        x = numpyro.sample("x", dist.MultivariateNormal(loc[z], jnp.eye(1)))
        numpyro.sample("u", dist.MultivariateNormal(x, jnp.eye(1)), obs=0.1 * y[:, :1])
        sure = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        numpyro.sample("y", dist.Categorical(sure[z]), obs=(y[:, 2] == 0) * 1)


FINE = [0, 1, 2, 2]
BAD = [0, 2, 0, 0]
DATA = jnp.array([FINE, FINE, BAD, FINE, BAD])
PROGRAMS = {
    "chain": (chain, {}),
    "labels": (labels, {}),
    "vectors": (vectors, {}),
    "mean field": (vectors, {"mean_field": True}),
}
MESSAGE = r"probability zero under the model: 'z' at 2 of 5 entries from \(2,\)"


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_loss_is_infinite_and_the_entry_is_named(name):
    model, options = PROGRAMS[name]
    guide = ns.AutoSVAE(model, **options, num_starts=1)
    svi = SVI(model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    good = jnp.array([FINE, [0, 1, 1, 1]] * 2 + [FINE])
    start = svi.init(random.PRNGKey(0), good)
    assert np.isfinite(svi.evaluate(start, good))
    with pytest.warns(RuntimeWarning) as said:
        losses = jax.jit(jax.vmap(lambda y: svi.update(start, y)[1]))
        losses = jax.block_until_ready(losses(jnp.stack([good, DATA])))
    assert np.isfinite(losses[0]) and losses[1] == np.inf
    texts = [str(w.message) for w in said]
    assert any("'z' at 2 of 5 entries from (2,)" in text for text in texts)

    terms = ns.SVAE_ELBO(sum_sites=False).loss(
        random.PRNGKey(0), svi.get_params(start), model, guide, DATA
    )
    assert terms["z"] == np.inf and not any(map(np.isnan, terms.values()))


def test_posteriors_say_it_too():
    guide = ns.AutoSVAE(chain)
    guide._setup_prototype(DATA)
    with pytest.warns(RuntimeWarning, match=MESSAGE):
        guide.posterior_local({}, DATA)


def test_an_observation_without_local_parents_is_named():
    def model(y):
        with numpyro.plate("sequences", len(y)):
            numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)))
            numpyro.sample("y", dist.Categorical(jnp.array([0.5, 0.5, 0.0])), obs=y)

    guide = ns.AutoSVAE(model)
    svi = SVI(model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    y = jnp.array([0, 1, 2])
    state = svi.init(random.PRNGKey(0), y)
    with pytest.warns(RuntimeWarning, match="inf at 'y'"):
        assert svi.evaluate(state, y) == np.inf


def conjugate(y):
    """Observations of one number each, whose parameters are learnt."""
    probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones(3)))
    p = numpyro.sample("p", dist.Beta(1.0, 2.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    rows = jnp.array([[0.5, 0.5], [0.2, 0.8]])
    parts = {
        "label": dist.Categorical(probs),
        "counts": dist.Multinomial(4, probs),
        "coin": dist.Bernoulli(p),
        "time": dist.Gamma(1.5, rate),
        "path": ns.DiscreteMarkovChain(rows[0], rows, num_steps=3),
    }
    with numpyro.plate("data", 2):
        for name, fn in parts.items():
            numpyro.sample(name, fn, obs=y[name])


@pytest.mark.filterwarnings("ignore:Out-of-support values:UserWarning")
def test_data_out_of_place_have_probability_zero():
    """Labels that there are not, counts that do not add up, times before zero."""
    good = {
        "label": jnp.array([0, 2]),
        "counts": jnp.array([[1, 2, 1], [0, 0, 4]]),
        "coin": jnp.array([1, 0]),
        "time": jnp.array([0.5, 2.0]),
        "path": jnp.array([[0, 1, 1], [0, 0, 0]]),
    }
    wrong = {
        "label": jnp.array([0, -1]),
        "counts": jnp.array([[1, 2, 2], [0, 0, 4]]),
        "coin": jnp.array([3, 0]),
        "time": jnp.array([0.5, -2.0]),
        "path": jnp.array([[0, 1, 2], [0, 0, 0]]),
    }
    guide = ns.AutoSVAE(conjugate)
    svi = SVI(conjugate, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    params = svi.get_params(svi.init(random.PRNGKey(0), good))
    args = random.PRNGKey(0), params, conjugate, guide

    @jax.jit  # within which labels are not known
    def loss(data):
        return ns.SVAE_ELBO(sum_sites=False).loss(*args, data)

    assert all(np.isfinite(value) for value in loss(good).values())
    with pytest.warns(RuntimeWarning, match=r"'coin' at 1 of 2 entries from \(0,\)"):
        terms = jax.block_until_ready(loss(wrong))
    assert {name for name in terms if terms[name] == np.inf} == set(wrong)
