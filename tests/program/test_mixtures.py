# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures that are data are read as their labels and components would be."""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.handlers import mask, seed, trace
from numpyro.infer import Predictive
import pytest

import numpyro_svae as ns

rng = np.random.default_rng(0)
N = 12
X = rng.normal(size=(N, 2))
SEEN = rng.random(N) < 0.7
DATA = {
    "numbers": rng.normal(size=N),
    "vectors": rng.normal(size=(N, 2)),
    "counts": rng.poisson(3.0, N),
    "lines": rng.normal(size=N),
    "several": rng.normal(size=N),
    "masked": rng.normal(size=N),
    "unseen": rng.normal(size=N),
    "zeros": np.arange(N) % 3,
    "alone": rng.normal(size=N),
}


def _observe(mixtures, name, weights, components, at, value):
    """A mixture, or a label and its component."""
    seen = SEEN if name == "masked" else True
    if mixtures and name == "zeros":
        fn = dist.ZeroInflatedPoisson(weights, components.rate)
    elif mixtures:
        fn = dist.Mixture(dist.Categorical(weights), components)
    else:
        kind = dist.Bernoulli if name == "zeros" else dist.Categorical
        label = kind(weights).mask(seen)
        fn = at(numpyro.sample(f"{name}_component", label))
    numpyro.sample(name, fn.mask(seen), obs=value)


def program(mixtures):
    """All kinds of components, as mixtures or with labels, the same otherwise."""
    observe = partial(_observe, mixtures)

    def model(numbers, vectors, counts, lines, several, masked, unseen, zeros, alone):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0])))
        with numpyro.plate("states", 2):
            mu = numpyro.sample("mu", dist.Normal(jnp.array([-1.0, 1.0]), 3.0))
            tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
            prior = ns.NormalInverseWishart(jnp.zeros(2), 1.0, 4.0, jnp.eye(2))
            loc, cov = ns.sample("joint", prior)
            rate = numpyro.sample("rate", dist.Gamma(jnp.array([2.0, 8.0]), 1.0))
            slope = dist.Normal(jnp.zeros(2), jnp.array([1.0, 2.0])).to_event(1)
            slope = numpyro.sample("slope", slope)
        gate = numpyro.sample("gate", dist.Beta(1.0, 2.0))
        often = numpyro.sample("often", dist.Gamma(2.0, 1.0))
        a = numpyro.sample("a", dist.Normal(-1.0, 3.0).expand([2]).to_event(1))
        b = numpyro.sample("b", dist.Normal(1.0, 3.0).expand([2]).to_event(1))

        def normal(z):
            return dist.Normal(mu[z], tau[z] ** -0.5)

        def known(z):
            return dist.Normal(jnp.array([-1.0, 1.0])[z], 1.0)

        def vector(z):
            return dist.MultivariateNormal(loc[z], cov[z])

        def line(z):
            return dist.Normal(jnp.sum(X * slope[z], -1), 0.5)

        def none_or(z):
            return dist.Poisson(jnp.where(z == 1, 0.0, often))

        def either(z):
            means, scales = jnp.stack([a, b]), jnp.array([1.0, 2.0])
            return dist.Normal(means[z], scales[z][..., None]).to_event(1)

        every, vectors_of = slice(None), [dist.Normal(a, 1.0), dist.Normal(b, 2.0)]
        pair = [fn.to_event(1) for fn in vectors_of]
        with numpyro.plate("data", N):
            observe("numbers", weights, normal(every), normal, numbers)
            observe("vectors", weights, vector(every), vector, vectors)
            counted = dist.Poisson(rate)
            observe("counts", weights, counted, lambda z: dist.Poisson(rate[z]), counts)
            lines_of = dist.Normal(X @ slope.T, 0.5)
            observe("lines", weights, lines_of, line, lines)
            observe("several", weights, pair, either, jnp.stack([several, lines], -1))
            observe("masked", weights, normal(every), normal, masked)
            observe("zeros", gate, dist.Poisson(often), none_or, zeros)
            with mask(mask=SEEN):
                observe("unseen", weights, known(every), known, unseen)
        if mixtures:  # without a plate, each datum has a label too
            observe("alone", weights, normal(every), normal, alone)
        else:
            with numpyro.plate("more", N):
                observe("alone", weights, normal(every), normal, alone)

    return model


def begun(guide, **data):
    """The parameters that a guide begins with."""
    with trace() as messages, seed(rng_seed=0):
        guide(**data)
    return {n: m["value"] for n, m in messages.items() if m["type"] == "param"}


@pytest.fixture(scope="module")
def both():
    """Both spellings, with their guides, at the parameters of the first one."""
    models = [program(mixtures) for mixtures in (True, False)]
    guides = [ns.AutoSVAE(model, num_starts=1) for model in models]
    params, _ = (begun(guide, **DATA) for guide in guides)
    return models, guides, params


def test_a_mixture_has_the_loss_and_the_gradient_of_its_label(both):
    """It is what the label is summed out of."""
    models, guides, params = both

    def loss(model, guide, params):
        return ns.SVAE_ELBO().loss(random.key(0), params, model, guide, **DATA)

    mixed, labelled = (
        jax.jit(jax.value_and_grad(partial(loss, *pair)))(params)
        for pair in zip(models, guides)
    )
    compare = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(compare, mixed, labelled)


def test_a_label_that_the_program_has_not_has_a_posterior(both):
    """Its name is that of the mixture, and its plate."""
    models, guides, params = both
    mixed, labelled = (guide.posterior_local(params, **DATA) for guide in guides)
    assert {f"{name}_component" for name in DATA} == set(mixed)
    for name, fn in labelled.items():
        np.testing.assert_allclose(mixed[name].probs, fn.probs, rtol=1e-4)
    found = ns.smooth(models[0], guides[0], params, **DATA)
    assert found["numbers_component_probs"].dims == ("data", "states")


def one(y=None):
    """A mixture of two normals."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(jnp.array([-2.0, 2.0]), 1.0).to_event(1))
    with numpyro.plate("data", 4):
        components = dist.Normal(mu, 1.0)
        fn = dist.MixtureSameFamily(dist.Categorical(weights), components)
        numpyro.sample("y", fn, obs=y)


def test_what_follows_a_fit_knows_of_labels_that_the_program_has_not():
    """Draws, a report, and data that are not there."""
    y, guide = jnp.array([-2.0, -1.5, 2.5, 3.0]), ns.AutoSVAE(one)
    params = begun(guide, y=y)
    drawn = Predictive(one, guide=guide, params=params, num_samples=3)(random.key(0))
    assert drawn["y"].shape == (3, 4)
    sites = guide.sample_posterior(random.key(0), params, y)
    np.testing.assert_array_equal(sites["y_component"], [0, 0, 1, 1])
    with seed(rng_seed=0), trace() as messages, handlers.substitute(data=params):
        guide(y)
    label = messages["y_component"]  # its density counts in no other loss or weight
    np.testing.assert_array_equal(label["fn"].log_prob(label["value"]), jnp.zeros(4))
    text = str(ns.report(one, guide, params, y, num_samples=200, show=False))
    assert "states of 'y_component'" in text
    assert "2 of 2 have data: 2, 2" in text


def test_a_mixture_that_depends_on_vectors_of_its_data_is_one_density():
    """A network behind them, or none, is no factor of a label."""

    def model(y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            components = dist.Normal(jnp.tanh(x * jnp.array([1.0, 2.0])), 0.5)
            fn = dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), components)
            numpyro.sample("y", fn, obs=y)
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("other", dist.Normal(1.0 * z, 1.0), obs=y)

    def recognition(y):
        return {"x": ns.GaussianPotential.from_loc_scale(y[:, None], jnp.ones((4, 1)))}

    guide = ns.AutoSVAE(model, recognition)
    begun(guide, y=jnp.arange(4.0))
    assert set(guide.structure.locals) == {"x", "z"}
    assert set(guide.structure.likelihoods) == {"y"}


def test_a_mixture_of_gaussian_sites_alone_is_one_density():
    """Its bound is closer than that of a label that is independent of them."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(jnp.array([-2.0, 2.0]), 1.0).to_event(1))
        with numpyro.plate("data", 4):
            label = dist.Categorical(jnp.array([0.3, 0.7]))
            fn = dist.MixtureSameFamily(label, dist.Normal(mu, 1.0))
            numpyro.sample("y", fn, obs=y)

    guide = ns.AutoSVAE(model)
    begun(guide, y=jnp.arange(4.0))
    assert not guide.structure.locals
    assert guide.structure.predicted == {"y": ("mu",)}
